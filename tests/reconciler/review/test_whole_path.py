"""From a branch to what runs, on a real forge."""

from __future__ import annotations

from tests.e2e.team import ENDPOINT, ROUTE
from tests.reconciler.review.conftest import House


async def test_what_was_approved_is_what_runs_and_the_comment_says_so(
    team: House,
) -> None:
    team.work.git("switch", "-q", "-c", "add-two")
    team.work.write("spec/endpoint/two.yaml", ENDPOINT)
    team.work.write("spec/route/two.yaml", ROUTE)
    head = team.push("add-two", "Add two")
    number = team.propose("add-two")

    comment = await team.until("a comment", lambda: team.comment_of(number))
    assert "Endpoint/default/two" in comment
    assert "approval for" in comment
    await team.until("a pending status", lambda: team.status_of(head)[0] == "pending")
    assert "1 approvals of bob are missing" in team.status_of(head)[1]

    await team.next_second(number)
    team.approve(number, "bob")
    await team.until("success", lambda: team.status_of(head)[0] == "success")
    team.merge(number)
    await team.until("it runs", lambda: "two" in str(team.targets["local"].objects))
    said = await team.until(
        "the outcome",
        lambda: (c := team.comment_of(number)) and "#### `applied`" in c and c,
    )

    assert "2 created" in said or "3 created" in said
    assert any(
        f"apply plan {team.digest(number)} of #{number}, approved by bob" in s
        for s in team.said()
    )
    assert {e.commit for e in team.entries() if e.plan == team.digest(number)} == {head}

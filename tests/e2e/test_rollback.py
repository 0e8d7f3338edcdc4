"""Back to what served before, with the revert proposed in git (law 17)."""

from __future__ import annotations

from tests.e2e.team import ENDPOINT, Team
from tests.e2e.test_kill import daemon, settled


def batch(team: Team) -> list[str]:
    """What each engine of the checkout was started with."""
    return [line.split("--parallel ")[1].split()[0] for line in team.engines().values()]


def test_law_17_a_rollback_serves_what_served_before_and_proposes_the_revert(
    team: Team,
) -> None:
    team.write_all("chat")
    team.bud("resolve")
    team.commit("Serve chat")
    with daemon(team):
        team.until("it serves", lambda: batch(team) == ["8"])
        team.until("and is recorded", lambda: settled(team))
        team.write(
            "spec/endpoint/chat.yaml", ENDPOINT.replace("maxBatch: 8", "maxBatch: 4")
        )
        team.bud("resolve")
        team.commit("Serve chat in smaller batches")
        team.until("the new one serves", lambda: batch(team) == ["4"])
        team.until("and is recorded", lambda: settled(team))

        said = team.data("rollback", "Endpoint/chat", "--reason", "too slow")

        team.until("what served before serves", lambda: batch(team) == ["8"])
        team.until("and is recorded", lambda: settled(team))
        why = team.data("why", "Endpoint/chat", code=3)
        assert "this revision is frozen: too slow" in why["waits"][0]
        assert any("rollback Endpoint/default/chat" in line for line in why["history"])

        team.git("merge", "--quiet", said["branch"])
        assert team.data("plan")["blocked"] == []
        team.until("git says so too", lambda: settled(team))
        assert team.data("plan")["steps"] == []
    assert batch(team) == ["8"]

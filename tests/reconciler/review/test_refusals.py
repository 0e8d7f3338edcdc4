"""What is refused on a real forge, and that each refusal is in the ledger."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from typing import Any

import aiohttp

from reconciler.review.receiver import MAX_BYTES
from tests.e2e.team import ENDPOINT
from tests.reconciler.review.conftest import SECRET, House


async def deliver(port: int, body: bytes, *, id_: str, secret: str = SECRET) -> int:
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://127.0.0.1:{port}/webhook",
            data=io.BytesIO(body),
            headers={"X-Gitea-Delivery": id_, "X-Gitea-Signature": signature},
        ) as answer,
    ):
        return answer.status


async def recorded(team: House, words: str) -> str:
    def there() -> str:
        return next((s for s in team.said() if words in s), "")

    found: str = await team.until(f"a record of {words!r}", there)
    return found


async def test_a_delivery_that_is_forged_replayed_or_too_large_is_refused_and_recorded(
    team: House,
) -> None:
    body = json.dumps({"repository": {"full_name": f"team/{team.name}"}}).encode()

    assert await deliver(team.port, body, id_="one") == 202
    assert await deliver(team.port, body, id_="one") == 409
    assert await deliver(team.port, body, id_="two", secret="another") == 403
    assert await deliver(team.port, b"x" * (MAX_BYTES + 1), id_="three") == 413
    assert await deliver(team.port, b"{", id_="four") == 403
    assert await deliver(team.port, b'{"repository": {}}', id_="five") == 403

    for words in (
        "replayed: one",
        "forged",
        "oversize",
        "no JSON",
        "another repository",
    ):
        await recorded(team, words)


async def test_people_are_refused_what_is_not_theirs_and_it_is_recorded(
    team: House,
) -> None:
    team.work.git("switch", "-q", "-c", "add-two")
    team.work.write("spec/endpoint/two.yaml", ENDPOINT)
    first = team.push("add-two", "Add two")
    number = team.propose("add-two")
    await team.until("a comment", lambda: team.comment_of(number))
    await team.next_second(number)

    # Before a force-push, and of what was there before.
    team.approve(number, "bob")
    await team.until("it is approved", lambda: team.status_of(first)[0] == "success")
    before = team.digest(number)
    team.work.write(
        "spec/endpoint/two.yaml", ENDPOINT.replace("replicas: 1", "replicas: 2")
    )
    team.work.git("reset", "-q", "--soft", "main")
    second = team.push("add-two", "Add two of them")
    await team.until("another plan", lambda: team.digest(number) != before)
    stale = await recorded(team, "is stale: it is of")
    assert "bob" in stale

    # By who wrote it; by somebody who may not write.
    await team.next_second(number)
    comment(team, "alice", number, f"/bud apply {team.digest(number)[:12]}")
    await recorded(team, "the approval by alice does not count: they wrote a part")
    comment(team, "mallory", number, f"/bud apply {team.digest(number)[:12]}")
    await recorded(team, "they may not write here")
    assert team.status_of(second)[0] == "pending"
    assert team.call("bud", "GET", f"/pulls/{number}")["merged"] is False

    # A merge without approval is not applied either.
    team.merge(number, "alice")
    await recorded(team, "1 approvals of bob are missing")
    assert "two" not in str(team.targets["local"].objects)

    # Who may, and names the plan, opens the gate: no second pull request is needed.
    comment(team, "bob", number, f"/bud apply {team.digest(number)[:12]}")
    await team.until("it runs", lambda: "two" in str(team.targets["local"].objects))


async def test_a_fork_is_planned_only_by_label_and_only_once(team: House) -> None:
    fork = f"fork-{team.name}"
    team.gitea.call("mallory", "POST", f"{team.repo}/forks", {"name": fork})
    team.work.git("switch", "-q", "-c", "evil")
    team.work.write("spec/endpoint/evil.yaml", ENDPOINT)
    team.work.commit("Evil", who="mallory")
    url = f"{team.gitea.url}/mallory/{fork}.git".replace(
        "://", f"://mallory:{team.gitea.tokens['mallory']}@"
    )
    team.work.git("push", "-q", url, "HEAD:refs/heads/evil")
    number = team.propose("mallory:evil", who="mallory")

    await recorded(team, f"refuse to plan #{number}: it comes from a fork")
    assert team.comment_of(number) == ""

    label = {"name": "bud/plan", "color": "#00aabb"}
    made = team.call("alice", "POST", "/labels", label)
    team.call("alice", "POST", f"/issues/{number}/labels", {"labels": [made["id"]]})
    await team.until("a comment", lambda: team.comment_of(number))
    await team.until("the label is gone", lambda: labels(team, number) == [])


def comment(team: House, who: str, number: int, text: str) -> None:
    team.call(who, "POST", f"/issues/{number}/comments", {"body": text})


def labels(team: House, number: int) -> list[Any]:
    found: list[Any] = team.call("bud", "GET", f"/issues/{number}/labels")
    return found

"""A canary on real engines behind the real gateway: judged on what clients met."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

from tests.e2e.team import ENDPOINT, ROUTE, Team
from tests.e2e.test_kill import daemon, settled
from tests.e2e.test_up import Traffic

CANARY = "  canary: {endpoint: %s, percent: 50, maxTtftIncreasePercent: 100}\n"
SLOWER = "{name: simulator, rehearses: vllm, args: {time-scale: 8}}"


def branches(team: Team, verb: str) -> list[str]:
    said = subprocess.run(
        ["git", "branch", "--list", f"bud/{verb}/*", "--format", "%(refname:short)"],
        cwd=team.root,
        check=True,
        capture_output=True,
        text=True,
    )
    return said.stdout.split()


def answered(team: Team) -> Counter[str]:
    """Endpoint -> requests that the gateway recorded."""
    files = (team.home / "gateway" / "usage").glob("*.jsonl")
    lines = [line for file in files for line in file.read_text().splitlines(True)]
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return Counter(record["upstream"] for record in whole)


def commit(team: Team, subject: str) -> None:
    team.bud("resolve")
    team.commit(subject)


def test_a_slow_canary_is_rolled_back_and_a_good_one_promoted_by_live_traffic(
    team: Team,
) -> None:
    team.write_all("chat")
    team.write("spec/endpoint/same.yaml", ENDPOINT)
    slow = ENDPOINT.replace("{name: simulator, rehearses: vllm}", SLOWER)
    team.write("spec/endpoint/slow.yaml", slow)
    commit(team, "Serve chat")
    with daemon(team):
        team.until("it serves", lambda: settled(team))
        ask = Traffic(team, "chat")
        with ask:
            team.write(
                "spec/route/chat.yaml", ROUTE.rstrip() + "\n    " + CANARY % "slow"
            )
            commit(team, "Try the slow one")
            team.until("it is rolled back", lambda: branches(team, "rollback") != [])
            why = team.data("why", "Route/chat", code=3)
            assert "canary slow rolled back: ttft" in why["waits"][0]
            team.until("the route is as it was", lambda: settled(team))
            ended = answered(team)["default/slow"]
            assert ended >= 200

            team.git("merge", "--quiet", *branches(team, "rollback"))
            assert "canary" not in (team.root / "spec/route/chat.yaml").read_text()
            assert team.data("plan")["steps"] == []

            team.write(
                "spec/route/chat.yaml", ROUTE.rstrip() + "\n    " + CANARY % "same"
            )
            commit(team, "Try the same one")
            team.until("it is promoted", lambda: branches(team, "canary") != [])
            team.until("the route is all its", lambda: settled(team))
            asked = answered(team)
            team.until(
                "it takes all of the traffic",
                lambda: answered(team)["default/same"] > asked["default/same"] + 50,
            )
            # Whatever was on its way when the weight moved, and nothing after it.
            assert answered(team)["default/chat"] <= asked["default/chat"] + 8
        assert answered(team)["default/slow"] <= ended + 8
        assert ask.failures == []

        team.git("merge", "--quiet", *branches(team, "canary"))
        written = (team.root / "spec/route/chat.yaml").read_text()
        assert "endpoint: same" in written
        assert team.data("plan")["steps"] == []
        assert team.data("plan")["blocked"] == []

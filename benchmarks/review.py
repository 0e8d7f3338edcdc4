"""From a commit to its plan comment, on a real forge, in a repository of 1,000 endpoints.

    python -m benchmarks.review [ENDPOINTS] [ROUNDS]

Each round pushes a commit that changes 20 endpoints to a pull request on a real Gitea, which
sends its webhook; the reviewer fetches, merges, reads the branch in the shut-in child, plans and
writes the comment, and the clock stops when Gitea shows it with that commit. The daemon runs
beside it; its targets are in memory, so that what is measured is ours and the forge's. The
limit is the issue's 10 s; CPU seconds say what a busy machine made of it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e.team import CLUSTER, ENDPOINT
from tests.reconciler.review.conftest import House, house
from tests.reconciler.review.gitea import running

LIMIT_S = 10.0
CHANGED = 20
LOOK_S = 0.25
"""Between two looks for the comment: they are work for the forge and for us."""
_TICKS = os.sysconf("SC_CLK_TCK")


async def main(count: int, rounds: int) -> None:
    # A line for each of 2,000 steps would be measured as well.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    files = {f"spec/endpoint/e{i}.yaml": ENDPOINT for i in range(count)}
    files["spec/cluster/here.yaml"] = CLUSTER.replace("count: 4", "count: 400")
    seconds, spent = list[float](), Counter[str]()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder, "gitea")) as gitea,
    ):
        async with house(
            gitea, Path(folder, "team"), files=files, interval_s=60
        ) as team:
            team.work.git("switch", "-q", "-c", "change")
            for i in range(rounds):
                for j in range(CHANGED):
                    batch = 16 + i
                    text = ENDPOINT.replace("maxBatch: 8", f"maxBatch: {batch}")
                    name = f"e{(i * CHANGED + j) % count}"
                    team.work.write(f"spec/endpoint/{name}.yaml", text)
                head = await asyncio.to_thread(team.work.commit, f"Round {i}")
                before = cpu(team)
                seconds.append(await one_round(team, head))
                spent.update(cpu(team))
                spent.subtract(before)
    seconds.sort()
    p95 = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
    p50 = statistics.median(seconds)
    print(f"{count} endpoints, {CHANGED} more changed in each of {rounds} rounds")
    print(f"commit to comment   p50 {p50:6.2f} s   p95 {p95:6.2f} s")
    print(f"p95 / limit of {LIMIT_S:.0f} s  {p95 / LIMIT_S:6.2f}")
    each = ", ".join(f"{who} {used / rounds:.2f}" for who, used in spent.items())
    print(f"CPU seconds a round: {each}; load {os.getloadavg()[0]:.1f}")


async def one_round(team: House, head: str) -> float:
    started = time.perf_counter()
    await asyncio.to_thread(team.send, "change")
    pulls = await asyncio.to_thread(team.call, "bud", "GET", "/pulls")
    number = (
        pulls[0]["number"] if pulls else await asyncio.to_thread(team.propose, "change")
    )

    while head[:12] not in await asyncio.to_thread(team.comment_of, number):
        await asyncio.sleep(LOOK_S)
    return time.perf_counter() - started


def cpu(team: House) -> dict[str, float]:
    """Seconds so far of us, of the planning process with its children, of the forge."""
    planner = team.reviewer.planner.describer.pid
    return {
        "daemon": _cpu(os.getpid()),
        "planner": _cpu(planner),
        "forge": _cpu(team.gitea.pid),
    }


def _cpu(pid: int) -> float:
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    mine, children = slice(11, 13), slice(13, 15)
    ours = pid == os.getpid()  # whose children are the others, and git
    return sum(map(int, (*fields[mine], *(() if ours else fields[children])))) / _TICKS


if __name__ == "__main__":
    wanted = [int(arg) for arg in sys.argv[1:]]
    asyncio.run(main(*(wanted + [1000, 20][len(wanted) :])))

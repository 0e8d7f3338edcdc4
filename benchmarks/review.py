"""From a commit to its plan comment, in a repository of 1,000 endpoints.

    python -m benchmarks.review [ENDPOINTS] [ROUNDS]

Each round pushes a branch that changes 20 endpoints to a local git remote and looks at its pull
request: fetch, merge, the shut-in child, observe, plan, policies, document, comment. The
forge is in memory and the targets answer at once, so that what is measured is ours; a real
forge adds the seconds that it takes to send its webhook. The limit is the issue's 10 s.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reconciler.review.describer import Describer
from renderers.comment import LIMIT
from tests.e2e.team import ENDPOINT
from tests.reconciler.review.test_pinning import bench

LIMIT_S = 10.0
CHANGED = 20


async def main(count: int, rounds: int) -> None:
    describer = Describer()
    with tempfile.TemporaryDirectory() as folder:
        async with bench(Path(folder), describer, count=count) as b:
            seconds = []
            for i in range(rounds):
                for j in range(CHANGED):
                    text = ENDPOINT.replace(
                        "maxBatch: 8", f"maxBatch: {16 + 8 * (i % 2)}"
                    )
                    b.work.write(
                        f"spec/endpoint/e{(i * CHANGED + j) % count}.yaml", text
                    )
                head = b.commit(f"Round {i}", "refs/pull/1/head")
                b.forge.pulls[1] = replace(b.forge.pulls[1], head=head)
                started = time.perf_counter()
                await b.gate.reviewer.look(1)
                seconds.append(time.perf_counter() - started)
                assert head[:12] in b.forge.written[-1].body
                assert len(b.forge.written[-1].body) <= LIMIT
    await describer.close()
    seconds.sort()
    p95 = seconds[min(len(seconds) - 1, round(0.95 * len(seconds)))]
    print(f"{count} endpoints, {CHANGED} changed, {rounds} rounds")
    print(
        f"commit to comment   p50 {statistics.median(seconds):6.2f} s   p95 {p95:6.2f} s"
    )
    print(f"p95 / limit of {LIMIT_S:.0f} s  {p95 / LIMIT_S:6.2f}")


if __name__ == "__main__":
    wanted = [int(arg) for arg in sys.argv[1:]]
    asyncio.run(main(*(wanted + [1000, 20][len(wanted) :])))

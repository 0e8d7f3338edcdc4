"""An engine without a model: predicted timing behind OpenAI's API (I/O).

Started as ``python -m reconciler.engines.simulator`` by the local target, so that
a fleet can be rehearsed without GPUs. How it answers is `simulated_api`, how long
it takes `rehearsal`, what it counts `meters`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from aiohttp import web

from reconciler.engines.rehearsal import Batch, Timing
from reconciler.engines.simulated_api import Faults, Simulator

__all__ = ["main"]

_DRAIN_S = 5.0
"""After SIGTERM, requests in flight may go on for as long, unless said otherwise;
whoever needs more takes the address away first and waits, as the local target does."""


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM; requests in flight are finished first."""
    options = _parse(argv)
    if options.start_fails:
        sys.exit(f"simulated failure at the start: {options.start_fails}")
    time.sleep(options.start_delay)
    timing = Timing(
        ttft_ms=options.ttft_ms,
        tpot_ms=options.tpot_ms,
        tpot_alone_ms=options.tpot_alone_ms or options.tpot_ms,
        input_tokens=options.input_tokens,
        concurrency=options.concurrency,
        scale=options.time_scale,
    )
    simulator = Simulator(
        alias=options.alias,
        rehearses=options.rehearses,
        batch=Batch(timing=timing, places=options.parallel, context=options.context),
        faults=Faults(
            not_ready=options.not_ready,
            error_after=options.error_after,
            crash_after=options.crash_after,
            hang_after=options.hang_after,
            cut_after_tokens=options.cut_after_tokens,
        ),
        seed=options.seed,
        dimensions=options.dimensions,
    )
    sys.stderr.write(f"simulator serves {options.alias} on port {options.port}\n")
    web.run_app(
        simulator.application(),
        host="127.0.0.1",
        port=options.port,
        print=None,
        access_log=None,
        # aiohttp takes 0 for "as long as they last".
        shutdown_timeout=max(options.drain, 0.01),
        # A client that hangs up frees its place in the batch, as in a real engine.
        handler_cancellation=True,
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="simulator", description=__doc__)
    add = parser.add_argument
    add("--alias", required=True, help="the served model name")
    add("--port", type=int, required=True)
    add("--task", choices=("chat", "completion", "embedding"), default="chat")
    add("--rehearses", default="simulator", help="named in system_fingerprint")
    add("--context", type=int, default=8192, help="longest sequence, tokens")
    add("--parallel", type=int, default=32, help="sequences that run at once")
    add("--input-tokens", type=int, default=512, help="of the planned load")
    add("--concurrency", type=int, default=1, help="of the planned load")
    add("--ttft-ms", type=float, default=0.0, help="at --input-tokens")
    add("--tpot-ms", type=float, default=0.0, help="at --concurrency")
    add("--tpot-alone-ms", type=float, default=None, help="with one sequence")
    add("--time-scale", type=float, default=1.0, help="multiplies every wait")
    add("--seed", type=int, default=0)
    add("--dimensions", type=int, default=384, help="of an embedding")
    add("--drain", type=float, default=_DRAIN_S, help="seconds after SIGTERM")
    add("--start-delay", type=float, default=0.0, help="seconds before it listens")
    add("--start-fails", default="", metavar="WHY", help="end at once, with an error")
    add("--not-ready", action="store_true", help="listen, and refuse every request")
    add("--error-after", type=int, default=0, metavar="ANSWERS", help="then 500")
    add("--crash-after", type=int, default=0, metavar="ANSWERS", help="then die")
    add("--hang-after", type=int, default=0, metavar="ANSWERS", help="then silence")
    add("--cut-after-tokens", type=int, default=0, help="then drop each stream")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()

"""Rehearsal: the endpoints that a plan changes, started on the simulator (I/O: processes).

`bud plan --rehearse` asks it. One replica of each is started as the local target would
start it, driven with its share of the declared load, and ended; what is measured
stands beside what was predicted. The timing follows the prediction, so that it shows
what a prediction leaves out (queues before a full batch, a context that is too short, a
server that does not come up) and never how fast a GPU is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from statistics import fmean, quantiles
from time import perf_counter
from typing import Any

import aiohttp

from reconciler.optimizer.posing import model_of
from reconciler.pipeline import Prepared
from reconciler.targets.local.launch import command, environment, with_port
from reconciler.targets.local.processes import free_port
from reconciler.tethered import tethered
from reconciler.values import Action
from renderers.local import render_endpoint
from schemas.endpoint import Endpoint, Engine
from schemas.errors import FoundryError, TemporaryError
from schemas.local import EndpointManifest, Program
from schemas.model import Model
from schemas.resolution import Resolution

__all__ = ["rehearse"]

Data = dict[str, Any]

AT_ONCE = 64
"""Sequences at most: one process plays about 10,000 tokens a second, 64 sequences at
20 ms a token are a third of that, and a busy machine would be measured instead."""
_ANSWER_S = 10.0
"""Of one answer, as predicted. A longer one is cut, which leaves the time of a token as
it is, and is said."""
_FEWEST = 8
"""Tokens, however slow."""
_EACH = 2
"""Answers for each sequence: the second meets a full batch."""
_LOOK_S = 0.05
_CHARACTERS_PER_TOKEN = 4
"""As the simulator counts."""


async def rehearse(prepared: Prepared, *, limit_s: float = 120.0) -> list[Data]:
    """A row for each endpoint that the plan makes or changes, one after the other.

    ``limit_s`` bounds one endpoint. Nothing that was started outlives the call.
    """
    desired, rows = prepared.desired, []
    wanted, made = (Action.CREATE, Action.CHANGE), prepared.plan
    changed = {s.key.ref for s in made.steps if s.change.action in wanted}
    # Also what cannot be applied yet: where nobody can look, there is no other way.
    changed |= {item.key.ref for item in made.blocked if item.action in wanted}
    for ref in sorted(changed):
        item = desired.objects.get(ref)
        if isinstance(item, Endpoint):
            chosen = prepared.resolved.resolutions[ref]
            try:
                async with asyncio.timeout(limit_s):
                    said = await _rehearse(item, model_of(desired, item), chosen)
            except TimeoutError:
                said = {"failed": f"no end in {limit_s:g} s"}
            except FoundryError as error:
                said = {"failed": error.args[0]}
            rows.append({"object": str(ref), "failed": "", **said})
    return rows


async def _rehearse(item: Endpoint, model: Model, chosen: Resolution) -> Data:
    if "ttft_ms" not in chosen.prediction:
        raise TemporaryError("nothing is predicted of it that could be played")
    manifest = EndpointManifest.model_validate_json(
        render_endpoint(_simulated(item), model, chosen)
    )
    replicas, load = max(1, manifest.replicas), item.spec.workload
    tokens = min(load.output_tokens, _tokens(chosen.prediction))
    share = -(-load.concurrency // replicas)
    at_once = min(share, AT_ONCE)
    async with _serving(manifest.program) as url, _session() as session:
        calls = Calls(session, url, manifest.program, load.input_tokens, tokens)
        answers, seconds = await _drive(calls, at_once)
    rate = chosen.prediction.get("tokens_per_s")
    return {
        "atOnce": at_once,
        "share": share,
        "tokens": tokens,
        "declaredTokens": load.output_tokens,
        "predicted": {
            "ttftMs": chosen.prediction["ttft_ms"],
            "tpotMs": chosen.prediction.get("tpot_ms"),
            "tokensPerS": None if rate is None else rate / replicas,
        },
        "measured": _measured(answers, seconds),
    }


def _tokens(prediction: Mapping[str, float]) -> int:
    """How many an answer of the longest time has."""
    left_ms = 1e3 * _ANSWER_S - prediction["ttft_ms"]
    return max(_FEWEST, int(left_ms / max(prediction.get("tpot_ms", 0.0), 1.0)))


async def _drive(calls: Calls, at_once: int) -> tuple[list[Answer], float]:
    """Every answer, and how long it took; the first that fails ends all."""
    started = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(calls.some()) for _ in range(at_once)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    answers = [answer for client in clients for answer in client.result()]
    return answers, perf_counter() - started


def _simulated(item: Endpoint) -> Endpoint:
    """The endpoint on the simulator; one that is on it already plays as it is."""
    engine = item.spec.engine
    if engine.name == "simulator":
        return item
    plays = engine.name if engine.name in ("vllm", "sglang") else None
    played = Engine(name="simulator", rehearses=plays)
    update = {"engine": played, "adapters": ()}
    return item.model_copy(update={"spec": item.spec.model_copy(update=update)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    first_s: float
    rest_s: float
    tokens: int


def _measured(answers: Sequence[Answer], seconds: float) -> Data:
    first = [1e3 * a.first_s for a in answers]
    gaps = [1e3 * a.rest_s / (a.tokens - 1) for a in answers if a.tokens > 1]
    return {
        "answers": len(answers),
        "ttftMs": fmean(first),
        "ttftP95Ms": _p95(first),
        "tpotMs": fmean(gaps) if gaps else None,
        "tpotP95Ms": _p95(gaps) if gaps else None,
        "tokensPerS": sum(a.tokens for a in answers) / seconds if gaps else None,
    }


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Calls:
    session: aiohttp.ClientSession
    url: str
    program: Program
    input_tokens: int
    output_tokens: int

    async def some(self) -> list[Answer]:
        """What one client gets, one answer after the other.

        Raises:
            TemporaryError: it answered with an error.
        """
        return [await self._ask() for _ in range(_EACH)]

    async def _ask(self) -> Answer:
        text = "word " * (self.input_tokens * _CHARACTERS_PER_TOKEN // 5)
        body: Data = {"model": self.program.probe.model}
        if self.program.probe.task == "embedding":
            path, body = "embeddings", body | {"input": text}
        else:
            path = "completions"
            body |= {"prompt": text, "max_tokens": self.output_tokens,
                     "ignore_eos": True, "stream": True}  # fmt: skip
        started, first, last, tokens = perf_counter(), 0.0, 0.0, 0
        try:
            async with self.session.post(f"{self.url}/v1/{path}", json=body) as answer:
                if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                    said = (await answer.text())[:200]
                    raise TemporaryError(f"it answered {answer.status}: {said}")
                async for line in answer.content:
                    if b'"finish_reason":null' in line or path == "embeddings":
                        last, tokens = perf_counter(), tokens + 1
                        first = first or last
        except (aiohttp.ClientError, OSError) as error:
            raise TemporaryError(f"it ended: {type(error).__name__}") from error
        if not tokens:
            raise TemporaryError("it answered nothing")
        return Answer(first_s=first - started, rest_s=last - first, tokens=tokens)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=1 << 20,
    )


@asynccontextmanager
async def _serving(program: Program) -> AsyncIterator[str]:
    """The process, once it answers; it ends with the block, and with this process."""
    port = free_port()
    argv = with_port(command(program.argv, model=None, adapters={}), port)
    env: Mapping[str, str] = environment(program, ())
    process = await asyncio.create_subprocess_exec(
        *tethered(argv), env=env, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        async with _session() as session:
            while not await _answers(session, url, program.probe.model):
                if process.returncode is not None:
                    raise TemporaryError(f"it ended with code {process.returncode}")
                await asyncio.sleep(_LOOK_S)
        yield url
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str, model: str) -> bool:
    """Whether it is up; a port can have become somebody else's meanwhile."""
    try:
        async with session.get(f"{url}/v1/models") as answer:
            return f'"{model}"' in await answer.text()
    except (aiohttp.ClientError, OSError):
        return False

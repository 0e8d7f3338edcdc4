"""Everything behind the gateway fails in turn; with one sound side, nobody notices.

Real processes on loopback: what is killed is killed by SIGKILL, and the tokens that
are recorded are held against what the upstreams themselves counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from schemas.gateway import (
    GatewayConfig,
    Key,
    Limits,
    Price,
    Route,
    Shared,
    Target,
    Timeouts,
    Upstream,
    hash_key,
)
from schemas.gateway_toml import dump
from schemas.units import Duration, Money
from tests.gateway.faulty import FAULTS
from tests.gateway.wire import (
    KEY,
    LISTENER,
    Asked,
    Gateway,
    MockUpstream,
    Start,
    Valkey,
    config_for,
    hang,
    launch,
    write,
)

OTHER_KEY = "bud-test-key-0002"
PRICE = Price(input=Money("1000USD"), output=Money("2000USD"))
LISTENED = LISTENER.model_copy(update={"usage": "usage", "workers": 2})
TIMES = Timeouts(
    first=Duration("300ms"), attempt=Duration("400ms"), total=Duration("20s")
)
IN_CONTENT = {"killed in the content", "resets in the content"}
STREAMED = {"sends an error event", *IN_CONTENT}
"""Faults that only a stream can have: one part is all of another answer."""
SDK_TRIES = 3
"""What the official clients do by default when a connection is lost."""


class Process:
    """One `faulty.py`, and what it counted."""

    def __init__(self, folder: Path, fault: str) -> None:
        self._ledger = folder / f"{len(list(folder.iterdir()))}.ledger"
        script = Path(__file__).with_name("faulty.py")
        self.process = subprocess.Popen(
            [sys.executable, "-S", script, fault, self._ledger], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        with self.process.stdout as out:
            self.url = f"http://127.0.0.1:{int(out.readline())}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def counted(self) -> dict[str, dict[str, Any]]:
        lines = self._ledger.read_text().splitlines()
        return {line["id"]: line for line in map(json.loads, lines)}


@dataclass
class Seen:
    """What a client has had of one request."""

    stream: bool
    status: int = 0
    id: str = ""
    words: list[str] = field(default_factory=list)
    usage: tuple[int, int] | None = None
    error: str | None = None
    whole: bool = False

    @property
    def failed_early(self) -> bool:
        return not self.whole and not self.words


def note(seen: Seen, document: dict[str, Any]) -> None:
    """Take in a plain answer, or an event."""
    for choice in document.get("choices", ()):
        said = choice.get("message") or choice["delta"]
        seen.words += said.get("content", "").split()
    if usage := document.get("usage"):
        seen.usage = usage["prompt_tokens"], usage["completion_tokens"]
    if error := document.get("error"):
        seen.error = error["code"]


class Clients:
    """Callers of one gateway who check every answer that they get."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self._gateway, self._session = gateway, session
        self._turn = itertools.count()

    async def ask(self, key: str = KEY, *, tries: int = 1, **given: Any) -> Seen:
        """Ask once; ``tries``: again, as clients do, if the connection is lost."""
        stream = next(self._turn) % 2 == 0
        for _ in range(tries):
            seen = Seen(given.get("stream", stream))
            with suppress(aiohttp.ClientError):
                await self._one(key, seen)
            if seen.status or seen.words:
                break
        return seen

    async def _one(self, key: str, seen: Seen) -> None:
        options = {"stream_options": {"include_usage": True}} if seen.stream else {}
        asked = {"model": "smol", "messages": [], "stream": seen.stream, **options}
        async with self._session.post(
            self._gateway.url + "/v1/chat/completions",
            json=asked,
            headers={"authorization": f"Bearer {key}"},
        ) as answer:
            seen.status, seen.id = answer.status, answer.headers["x-request-id"]
            if answer.content_type != "text/event-stream":
                note(seen, await answer.json())
                seen.whole = answer.status == 200
                return
            async for line in answer.content:
                if line == b"data: [DONE]\n":
                    seen.whole = True
                elif line != b"\n":
                    note(seen, json.loads(line.removeprefix(b"data: ")))

    async def many(self, count: int, **given: Any) -> list[Seen]:
        """Ask so often, eight at a time."""

        async def some(times: int) -> list[Seen]:
            return [await self.ask(**given) for _ in range(times)]

        each = await asyncio.gather(*(some(count // 8) for _ in range(8)))
        return list(itertools.chain(*each))

    async def steadily(
        self, stop: asyncio.Event, *keys: str, tries: int = 1
    ) -> dict[str, list[tuple[float, Seen]]]:
        """Ask 100 times a second, for each key in turn, and say when."""
        loop = asyncio.get_running_loop()
        asked: dict[str, list[tuple[float, asyncio.Task[Seen]]]] = {k: [] for k in keys}
        for key in itertools.cycle(keys):
            task = loop.create_task(self.ask(key, tries=tries))
            asked[key].append((loop.time(), task))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.01)
            if stop.is_set():
                break
        return {key: [(at, await task) for at, task in of] for key, of in asked.items()}


def config_of(*upstreams: Process, **changes: Any) -> GatewayConfig:
    """Give the first upstream all that it takes, and the next what it does not."""
    plenty = Limits(
        requests_per_minute=10**7,
        tokens_per_minute=10**9,
        concurrent=1000,
        budget=Money("1000000USD"),
    )
    names = [f"team/u{index}" for index in range(len(upstreams))]
    config = GatewayConfig(
        gateway=LISTENED,
        keys={
            "team/ci": Key(hash=hash_key(KEY), limits=plenty),
            "team/other": Key(hash=hash_key(OTHER_KEY), limits=plenty),
        },
        upstreams={
            name: Upstream(urls=(one.url,), model="m", price=PRICE)
            for name, one in zip(names, upstreams, strict=True)
        },
        routes={
            "team/chat": Route(
                models=("smol",),
                timeouts=TIMES,
                targets=tuple(
                    Target(upstream=name, priority=index)
                    for index, name in enumerate(names)
                ),
            )
        },
    )
    return config.model_copy(update=changes)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One gateway of two workers for all rows."""
    folder = tmp_path_factory.mktemp("chaos") / "gateway"
    gateway = launch(folder, GatewayConfig(gateway=LISTENED))
    yield gateway
    gateway.process.terminate()
    assert gateway.process.wait(40) == 0


Begin = Callable[[str], Process]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Start upstreams."""
    begun: list[Process] = []

    def one(fault: str) -> Process:
        folder = tmp_path / "ledgers"
        folder.mkdir(exist_ok=True)
        begun.append(Process(folder, fault))
        return begun[-1]

    yield one
    for process in begun:
        process.kill()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as one:
        yield one


async def put(gateway: Gateway, config: GatewayConfig) -> None:
    write(gateway.folder / "gateway.toml", dump(config))
    digest = "sha256:" + hashlib.sha256(dump(config).encode()).hexdigest()
    await gateway.until(lambda s: s["ready"] and s["config"] == digest)


async def recorded(gateway: Gateway, ids: set[str]) -> dict[str, dict[str, Any]]:
    """Wait until all of these have a record, and give those: one each."""
    folder = gateway.folder / "usage"
    async with asyncio.timeout(30):
        while True:
            lines = [
                line
                for path in folder.glob("*.jsonl")
                for line in path.read_text().splitlines(keepends=True)
            ]
            every = [json.loads(line) for line in lines if line.endswith("\n")]
            found = [record for record in every if record["id"] in ids]
            if len(found) >= len(ids):
                break
            await asyncio.sleep(0.05)
    assert len(found) == len(ids)
    return {record["id"]: record for record in found}


def assert_exact(
    records: dict[str, dict[str, Any]], upstreams: dict[str, Process]
) -> None:
    """Hold what was recorded against what the upstreams counted."""
    counted = {name: process.counted for name, process in upstreams.items()}
    for request_id, record in records.items():
        told = counted[record["upstream"]][request_id]
        given = record["input"] if record["estimated"] else told["input"]
        expected = given, told["output"]
        assert (record["input"], record["output"]) == expected, record
        cost = record["input"] * 1000 + record["output"] * 2000
        assert record["cost_nano_usd"] == cost * 1000


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
async def test_a_sound_fallback_hides_an_upstream_that(
    fault: str, running: Gateway, begin: Begin, session: aiohttp.ClientSession
) -> None:
    ill, sound = begin(fault), begin("none")
    await put(running, config_of(ill, sound))
    # Breakers make it rare that an ill upstream is asked more than a few times.
    given = {"stream": True} if fault in STREAMED else {}
    answers = await Clients(running, session).many(64, **given)
    early = [seen for seen in answers if seen.failed_early]
    assert early == []
    broken = [seen for seen in answers if not seen.whole]
    if fault in IN_CONTENT:
        assert all(seen.error == "upstream_lost" for seen in broken)
        assert broken
    else:
        assert broken == []
    records = await recorded(running, {seen.id for seen in answers})
    assert_exact(records, {"team/u0": ill, "team/u1": sound})
    for seen in answers:
        record = records[seen.id]
        assert seen.words == [f"w{n}" for n in range(record["output"])]
        if seen.whole:
            assert seen.usage == (record["input"], record["output"])
    assert max(record["tries"] for record in records.values()) > 1 or broken


async def test_a_worker_killed_under_load_costs_no_answer_and_no_record(
    running: Gateway, begin: Begin, session: aiohttp.ClientSession
) -> None:
    sound = begin("none")
    await put(running, config_of(sound))
    clients, stop = Clients(running, session), asyncio.Event()
    load = asyncio.ensure_future(clients.steadily(stop, KEY, tries=SDK_TRIES))
    for _ in range(2):
        before = len(sound.counted)
        while len(sound.counted) < before + 60:
            await asyncio.sleep(0.02)
        victim = (await running.status())["workers"][0]["pid"]
        os.kill(victim, signal.SIGKILL)
        await running.until(
            lambda s, old=victim: s["ready"] and s["workers"][0]["pid"] != old
        )
    stop.set()
    answers = [seen for _, seen in (await load)[KEY]]
    assert [seen for seen in answers if seen.failed_early] == []
    counted = sound.counted
    records = await recorded(running, set(counted))
    lost = [record for record in records.values() if record["status"] == 0]
    done = {i: record for i, record in records.items() if record["status"] == 200}
    assert len(done) + len(lost) == len(counted)
    assert_exact(done, {"team/u0": sound})
    assert {seen.id for seen in answers if seen.whole} <= set(done)
    assert all(record["estimated"] for record in lost)


async def test_valkey_killed_under_load_costs_no_answer_and_no_record(
    valkey: Valkey,
    tmp_path: Path,
    begin: Begin,
    session: aiohttp.ClientSession,
) -> None:
    sound = begin("none")
    config = config_of(sound)
    shared = Shared.model_validate({"address": valkey.address})
    listener = config.gateway.model_copy(update={"shared": shared})
    gateway = launch(tmp_path / "gateway", config_of(sound, gateway=listener))
    await gateway.until(lambda s: s["ready"])
    clients, stop = Clients(gateway, session), asyncio.Event()
    load = asyncio.ensure_future(clients.steadily(stop, KEY))
    await gateway.until_shown("bud_gateway_shared_up 1")
    valkey.kill()
    await gateway.until_shown("bud_gateway_shared_up 0")
    valkey.start()
    await gateway.until_shown("bud_gateway_shared_up 1")
    stop.set()
    answers = [seen for _, seen in (await load)[KEY]]
    assert [seen for seen in answers if not seen.whole] == []
    records = await recorded(gateway, set(sound.counted))
    assert len(records) == len(answers)
    assert_exact(records, {"team/u0": sound})
    assert await gateway.stop() == 0
    state = json.loads((gateway.folder / "usage" / "state.json").read_text())
    spent = {v[1] for name, v in state["spent"].items() if name.startswith("key ")}
    assert spent == {sum(record["cost_nano_usd"] for record in records.values())}


async def test_reloads_at_100_requests_a_second_disturb_none_of_them(
    running: Gateway, begin: Begin, session: aiohttp.ClientSession
) -> None:
    one, two = begin("none"), begin("none")
    orders = [config_of(one, two), config_of(one)]
    await put(running, orders[0])
    clients, stop = Clients(running, session), asyncio.Event()
    load = asyncio.ensure_future(clients.steadily(stop, KEY))
    before = (await running.status())["generation"]
    for turn in itertools.count():
        text = dump(orders[turn % 2]) + f"# {turn}\n"
        write(running.folder / "gateway.toml", text)
        if (await running.status())["generation"] > before + 8:
            break
    stop.set()
    answers = [seen for _, seen in (await load)[KEY]]
    assert [seen for seen in answers if not seen.whole] == []
    records = await recorded(running, {seen.id for seen in answers})
    assert_exact(records, {"team/u0": one, "team/u1": two})


async def test_a_key_revoked_under_load_is_refused_within_a_second_and_alone(
    running: Gateway, begin: Begin, session: aiohttp.ClientSession
) -> None:
    sound = begin("none")
    config = config_of(sound)
    await put(running, config)
    clients, stop = Clients(running, session), asyncio.Event()
    load = asyncio.ensure_future(clients.steadily(stop, KEY, OTHER_KEY))
    while len(sound.counted) < 50:
        await asyncio.sleep(0.02)
    revoked = config.keys["team/ci"].model_copy(update={"disabled": True})
    keys = config.keys | {"team/ci": revoked}
    write(
        running.folder / "gateway.toml",
        dump(config.model_copy(update={"keys": keys})),
    )
    loop = asyncio.get_running_loop()
    written = loop.time()
    loop.call_later(1.3, stop.set)
    answers = await load
    assert [seen for _, seen in answers[OTHER_KEY] if not seen.whole] == []
    of_revoked = answers[KEY]
    assert [s.status for at, s in of_revoked if at < written if not s.whole] == []
    late = [seen.status for at, seen in of_revoked if at > written + 1]
    assert late
    assert set(late) == {401}
    records = await recorded(running, set(sound.counted))
    assert_exact(records, {"team/u0": sound})


ASK: dict[str, Any] = {"model": "smol", "messages": []}


async def test_what_follows_an_answer_is_nobodys(
    start: Start, upstream: MockUpstream
) -> None:
    async def long(writer: asyncio.StreamWriter, asked: Asked) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"content-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
        )

    gateway = await start(config_for(upstream))
    client = gateway.client()
    upstream.script.append(long)
    raw = await client.chat.completions.with_raw_response.create(**ASK)
    assert raw.content == b"{}"
    answer = await client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "hello"


async def test_a_hanging_upstream_costs_the_total_timeout_and_no_more(
    start: Start, upstream: MockUpstream
) -> None:
    upstream.always = hang
    gateway = await start(config_for(upstream, timeouts={"total": Duration("500ms")}))
    with pytest.raises(openai.InternalServerError) as caught:
        await gateway.client().chat.completions.create(**ASK)
    assert caught.value.status_code == 504
    assert caught.value.code == "timeout"
    await upstream.until_open(0)

"""A second try beside a late one: who answers, who is left, and what it costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from gateway.answer import Framing, UpstreamHead
from gateway.attempt import Attempt
from gateway.compilation import compile_snapshot
from gateway.exchange import Exchange
from gateway.health import FAILURES, Health, Recent, RetryBudget
from gateway.hedging import Hedged, is_safe
from gateway.metrics import Metrics
from gateway.openai import read_request
from gateway.ports import Settled
from gateway.snapshot import Address, Route
from schemas.gateway import Addresses, GatewayConfig, Hedge, Target, Upstream
from schemas.gateway import Price as PriceTable
from schemas.gateway import Route as RouteTable
from schemas.units import Duration, Money
from tests.gateway.wire import (
    Asked,
    Behaviour,
    MockUpstream,
    Start,
    chat_document,
    config_for,
    delta,
    hang,
    respond,
    stream_of,
    usage_event,
)

PLAIN = UpstreamHead.of(200, {b"content-type": b"application/json"})
EVENTS = UpstreamHead.of(200, {b"content-type": b"text/event-stream"})
BODY = orjson.dumps({"usage": {"prompt_tokens": 5, "completion_tokens": 2}})
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Lent:
    """A connection: what was sent on it, and whether it was closed."""

    address: Address
    attempt: Attempt
    reused: bool = False
    sent: list[bytes] = field(default_factory=list)
    aborted: bool = False
    slow: bool = False

    def send(self, data: bytes, attempt: Attempt) -> None:
        self.sent.append(data)

    def upload(self, parts: AsyncIterator[bytes], *, chunked: bool) -> None:
        raise AssertionError("nothing is uploaded here")

    def abort(self) -> None:
        self.aborted = True

    def pause(self) -> None:
        self.slow = True

    def resume(self) -> None:
        self.slow = False


class Bench:
    """The runtime and the client of one exchange, driven by hand."""

    def __init__(self, hosts: str = "ab", **route: Any) -> None:
        upstreams = {
            f"t/{name}": Upstream(
                urls=(f"http://{name}:80",),
                price=PriceTable(input=Money("1000USD"), output=Money("1000USD")),
            )
            for name in hosts
        }
        given = {"hedge": Hedge(after=Duration("100ms")), **route}
        table = RouteTable(
            models=("m",),
            targets=tuple(
                Target(upstream=name, priority=at) for at, name in enumerate(upstreams)
            ),
            **given,
        )
        config = GatewayConfig(upstreams=upstreams, routes={"t/r": table})
        self.snapshot = compile_snapshot(config, Addresses(), {})
        self.metrics = Metrics()
        self.budget = RetryBudget(table.retry_percent)
        self.healths: dict[str, Health] = {}
        self.time = 1000.0
        self.lent: list[Lent] = []
        self.waits: list[float | None] = []
        self.outcome: Settled | None = None
        self.written = b""
        self.ended = False

    def retries(self, route: Route) -> RetryBudget:
        return self.budget

    def health(self, url: str) -> Health:
        return self.healths.setdefault(url, Health())

    def now(self) -> float:
        return self.time

    wall = now

    def random(self) -> float:
        return 0.5

    def connect(
        self, address: Address, attempt: Attempt, *, limit_s: float, fresh: bool
    ) -> None:
        self.lent.append(Lent(address, attempt))
        attempt.connected(self.lent[-1])

    def wait(self, exchange: Exchange, seconds: float | None) -> None:
        self.waits.append(seconds)

    def settled(self, exchange: Exchange, outcome: Settled) -> None:
        assert self.outcome is None, "counted twice"
        self.outcome = outcome

    def write(self, data: bytes) -> None:
        self.written += data

    def finish(self) -> None:
        assert not self.ended
        self.ended = True

    cut = finish

    def ask(self, **fields: Any) -> Hedged:
        exchange = Hedged(
            self,
            self,
            key=None,
            route=self.snapshot.routes["t/r"],
            request=read_request("chat", orjson.dumps({**ASKED, **fields})),
            request_id=b"r-1",
            framing=Framing(keep_alive=True, chunked=True),
        )
        exchange.start()
        return exchange

    def late(self, **fields: Any) -> Hedged:
        """Ask, and let so much time pass that another is asked as well."""
        exchange = self.ask(**fields)
        self.time += 0.1
        exchange.resume()
        return exchange

    @property
    def hosts(self) -> list[str]:
        return [lent.address.host for lent in self.lent]

    def hedges(self, outcome: str) -> float:
        return self.metrics.values.get(("bud_gateway_hedges_total", "t/r", outcome), 0)


def test_nobody_else_is_asked_before_the_first_is_late() -> None:
    bench = Bench()
    exchange = bench.ask()
    assert bench.waits == [pytest.approx(0.1)]
    bench.time += 0.05
    exchange.resume()  # the snapshot changed
    assert bench.hosts == ["a"]
    assert bench.waits[1:] == [pytest.approx(0.05)]
    bench.time += 0.06
    exchange.resume()
    exchange.resume()
    assert bench.hosts == ["a", "b"]


@pytest.mark.parametrize("winner", [0, 1])
def test_the_first_content_wins_and_the_other_is_closed(winner: int) -> None:
    bench = Bench()
    exchange = bench.late(stream=True)
    first, second = bench.lent
    fast, slow = bench.lent[winner], bench.lent[1 - winner]
    for lent in (first, second):
        lent.attempt.answered(EVENTS)
        lent.attempt.received(delta(role="assistant"))
    assert bench.written == b""  # a role is no content
    fast.attempt.received(delta("hello"))
    assert (fast.aborted, slow.aborted) == (False, True)
    assert b"x-bud-upstream: t/" + "ab"[winner].encode() in bench.written
    before = bench.written
    slow.attempt.lost("closed")  # as its transport says in the end
    fast.attempt.received(usage_event(5, 2) + b"data: [DONE]\n\n")
    fast.attempt.completed()
    assert bench.written.startswith(before)
    assert bench.ended
    assert bench.outcome is not None
    assert bench.outcome.upstream is fast.attempt.choice.target.upstream
    assert bench.outcome.usage[:2] == (5, 2)
    assert bench.hedges("won" if winner else "lost") == 1
    assert exchange.tries == 2
    assert all(health.in_flight == 0 for health in bench.healths.values())
    assert all(not health.is_open for health in bench.healths.values())


@pytest.mark.parametrize("winner", [0, 1])
def test_an_answer_is_counted_once_and_the_losers_cost_stands_beside_it(
    winner: int,
) -> None:
    bench = Bench()
    exchange = bench.late()
    bench.lent[winner].attempt.whole(PLAIN, BODY)
    assert bench.written.endswith(BODY)
    assert bench.lent[1 - winner].aborted
    assert bench.outcome is not None
    assert bench.outcome.usage[:2] == (5, 2)
    assert bench.outcome.cost == 7_000_000  # at 0.001 dollars a token
    assert bench.outcome.upstream is bench.lent[winner].attempt.choice.target.upstream
    lost = json.loads(exchange.identity.removeprefix(b',"hedge":'))
    estimate = len(exchange.request.raw) // 4 + 1
    assert lost == {
        "upstream": f"t/{'ba'[winner]}",
        "input": estimate,
        "cost_nano_usd": estimate * 1_000_000,
    }


def test_a_failure_of_either_leaves_the_request_to_the_other() -> None:
    for failing in (0, 1):
        bench = Bench("abc")
        bench.late()
        bench.lent[failing].attempt.lost("closed")
        assert len(bench.lent) == 2  # the other is the retry
        bench.lent[1 - failing].attempt.whole(PLAIN, BODY)
        assert bench.written.endswith(BODY)
        assert bench.outcome is not None
        other = bench.lent[1 - failing].attempt.choice.target.upstream
        assert bench.outcome.upstream is other


def test_when_both_fail_the_next_is_asked_and_not_hedged_again() -> None:
    bench = Bench("abc")
    exchange = bench.late()
    for lent in bench.lent[:2]:
        lent.attempt.lost("closed")
    assert bench.hosts == ["a", "b", "c"]
    bench.time += 5
    exchange.resume()
    assert len(bench.lent) == 3


def test_a_refusal_of_either_is_the_answer_and_stops_the_other() -> None:
    bench = Bench()
    bench.late()
    first, second = bench.lent
    second.attempt.answered(UpstreamHead.of(422, PLAIN.fields))
    second.attempt.received(b"{}")
    second.attempt.completed()
    assert b" 422 " in bench.written
    assert first.aborted
    assert not first.attempt.live


def test_hedges_are_paid_from_the_retries_of_the_route() -> None:
    bench = Bench(retry_percent=1)
    while bench.budget.spend():
        pass
    bench.late()
    assert bench.hosts == ["a"]


def test_hedges_are_among_the_attempts_of_the_request() -> None:
    bench = Bench("abc", attempts=2)
    bench.late()
    for lent in bench.lent:
        lent.attempt.lost("closed")
    assert bench.hosts == ["a", "b"]
    assert b" 502 " in bench.written


def test_an_address_that_is_left_alone_is_not_asked_beside_another() -> None:
    bench = Bench()
    for _ in range(FAILURES):
        bench.health("http://b:80").failed(bench.time)
    bench.late()
    assert bench.hosts == ["a"]


def test_a_client_that_leaves_stops_both() -> None:
    bench = Bench()
    exchange = bench.late()
    exchange.client_gone()
    assert [lent.aborted for lent in bench.lent] == [True, True]
    assert bench.outcome is not None
    assert bench.outcome.status == 499


def test_a_client_that_is_slow_holds_both_back() -> None:
    bench = Bench()
    exchange = bench.late()
    exchange.client_slow(True)
    assert [lent.slow for lent in bench.lent] == [True, True]
    exchange.client_slow(False)
    assert [lent.slow for lent in bench.lent] == [False, False]


def test_the_total_timeout_stops_both() -> None:
    bench = Bench()
    exchange = bench.late()
    exchange.sweep(bench.time + 10_000)
    assert [lent.aborted for lent in bench.lent] == [True, True]
    assert b" 504 " in bench.written


def test_each_of_two_streams_has_its_own_timeout() -> None:
    bench = Bench()
    exchange = bench.late(stream=True)
    bench.time += 59.95  # 60.05 s after the first, 59.95 s after the second
    exchange.sweep(bench.time)
    assert [lent.aborted for lent in bench.lent] == [True, False]
    bench.lent[1].attempt.answered(EVENTS)
    bench.lent[1].attempt.received(delta("hello"))
    assert b"hello" in bench.written


def answered_in(bench: Bench, seconds: float) -> float | None:
    """Ask, have the first answer then, and say when another would have been."""
    bench.outcome, bench.ended = None, False
    bench.ask()
    bench.time += seconds
    bench.lent[-1].attempt.whole(PLAIN, BODY)
    return bench.waits[-1]


def test_late_is_what_few_answers_of_the_address_take() -> None:
    bench = Bench(hedge=Hedge(after=Duration("9s"), percentile=95))
    for at in range(100):
        due = answered_in(bench, 0.01 * (at + 1))
        if at < Recent.NEEDED:
            assert due == 9.0
    assert answered_in(bench, 0.01) == pytest.approx(0.96)


def test_those_that_lost_keep_the_usual_from_running_away() -> None:
    """Of the fast alone, each percentile is below the last, and all become late."""
    bench = Bench(hedge=Hedge(after=Duration("1s"), percentile=90))
    for at in range(100):
        answered_in(bench, 0.2 if at % 10 else 2.0)
    for _ in range(Recent.KEPT):
        bench.outcome, bench.ended = None, False
        for _ in range(9):
            answered_in(bench, 0.2)
        bench.outcome, bench.ended = None, False
        exchange = bench.ask()
        bench.time += bench.waits[-1] or 0
        exchange.resume()
        bench.time += 0.1
        bench.lent[-1].attempt.whole(PLAIN, BODY)
        for _ in range(10):
            bench.budget.earn()
    due = answered_in(bench, 0.2)
    assert due is not None
    assert 0.2 <= due <= 0.4


@pytest.mark.parametrize(
    ("op", "fields", "safe"),
    [
        ("chat", {}, True),
        ("embeddings", {}, True),
        ("chat", {"store": True}, False),
        ("responses", {}, False),
        ("images", {}, False),
        ("speech", {}, False),
    ],
)
def test_only_what_leaves_nothing_behind_is_asked_twice(
    op: Any, fields: dict[str, Any], safe: bool
) -> None:
    request = read_request(op, orjson.dumps({"model": "m", **fields}))
    assert is_safe(request) is safe


def test_a_route_that_allows_no_second_try_cannot_hedge() -> None:
    for route in ({"attempts": 1}, {"retry_percent": 0}):
        with pytest.raises(ValueError, match="cannot hedge"):
            Bench(**route)


# On the wire.


def after(seconds: float, behave: Behaviour) -> Behaviour:
    async def late(writer: asyncio.StreamWriter, asked: Asked) -> None:
        await asyncio.sleep(seconds)  # an upstream that is slow, which is the claim
        await behave(writer, asked)

    return late


def two(upstream: MockUpstream, spare: MockUpstream, **listener: Any) -> GatewayConfig:
    return config_for(
        upstream, spare, listener=listener, hedge=Hedge(after=Duration("50ms"))
    )


async def test_a_late_upstream_costs_the_delay_and_its_connection(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    upstream.always = hang
    gateway = await start(two(upstream, spare))
    client = gateway.client()
    raw = await client.chat.completions.with_raw_response.create(
        model="smol", messages=[{"role": "user", "content": "hi"}]
    )
    assert raw.headers["x-bud-upstream"] == "team/u1"
    assert raw.headers["x-bud-tries"] == "2"
    await upstream.until_open(0)
    stream = await client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    parts = [c.choices[0].delta.content async for c in stream if c.choices]
    assert "".join(filter(None, parts)) == "hello"
    await upstream.until_open(0)
    assert (len(upstream.asked), len(spare.asked)) == (2, 2)
    await gateway.until_shown('hedges_total{route="team/chat",outcome="won"}')


async def test_streams_of_two_are_never_mixed(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    """Both begin, both go on as long as they may: the client sees one of them."""

    def saying(word: str) -> Behaviour:
        parts = [*[delta(word)] * 20, delta(finish="stop"), b"data: [DONE]\n\n"]
        return after(0.08, stream_of(*parts))

    upstream.always, spare.always = saying("a"), saying("b")
    gateway = await start(two(upstream, spare))
    client = gateway.client()

    async def one() -> str:
        stream = await client.chat.completions.create(
            model="smol", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        parts = [c.choices[0].delta.content async for c in stream if c.choices]
        return "".join(filter(None, parts))

    answers = await asyncio.gather(*(one() for _ in range(20)))
    assert set(answers) <= {"a" * 20, "b" * 20}


async def test_responses_are_never_asked_twice(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    upstream.always = after(0.3, respond(200, chat_document()))
    gateway = await start(two(upstream, spare))
    await gateway.client().responses.create(model="smol", input="hi")
    assert (len(upstream.asked), len(spare.asked)) == (1, 0)


async def test_a_record_says_what_the_second_try_cost(
    start: Start, upstream: MockUpstream, spare: MockUpstream
) -> None:
    upstream.always = hang
    gateway = await start(two(upstream, spare, usage="usage"), fresh=True)
    await gateway.client().chat.completions.create(
        model="smol", messages=[{"role": "user", "content": "hi"}]
    )
    assert await gateway.stop() == 0
    [record] = [
        json.loads(line)
        for path in (gateway.folder / "usage").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert (record["upstream"], record["tries"]) == ("team/u1", 2)
    assert record["hedge"]["upstream"] == "team/u0"
    assert record["hedge"]["input"] > 0

"""Who is chosen: tiers, weights, strategies, and addresses that are ill."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import orjson
import pytest

from gateway.compilation import compile_snapshot
from gateway.engines import read_load
from gateway.health import (
    FAILURES,
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    Health,
    Reported,
    RetryBudget,
)
from gateway.openai import Request, read_request
from gateway.routing import Choice, choose
from gateway.snapshot import Route
from schemas.gateway import Addresses, GatewayConfig, Price, Target, Upstream
from schemas.gateway import Route as RouteTable
from schemas.units import Duration, Money


def route(
    *targets: Target, strategy: str = "weighted", replicas: int = 1, **options: Any
) -> Route:
    upstreams = {
        target.upstream: Upstream(
            urls=tuple(
                f"http://{target.upstream.partition('/')[2]}-{n}:80"
                for n in range(replicas)
            ),
            **options.get(target.upstream.partition("/")[2], {}),
        )
        for target in targets
    }
    table = RouteTable.model_validate(
        {"models": ["m"], "targets": targets, "strategy": strategy}
    )
    config = GatewayConfig(upstreams=upstreams, routes={"a/r": table})
    return compile_snapshot(config, Addresses(), {}).routes["a/r"]


def chat(text: str = "hi", **fields: Any) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    return read_request("chat", orjson.dumps(body))


def pick(
    given: Route,
    healths: dict[str, Health] | None = None,
    *,
    request: Request | None = None,
    tried: set[str] | None = None,
    draw: float = 0.5,
    now: float = 0.0,
) -> str | None:
    choice: Choice | None = choose(
        given,
        request or chat(),
        tried or set(),
        healths or {},
        now=now,
        random=draw,
    )
    return None if choice is None else choice.address.host


def draws(given: Route, count: int, **options: Any) -> Counter[str | None]:
    dice = random.Random(1)
    return Counter(pick(given, draw=dice.random(), **options) for _ in range(count))


def busy(**in_flight: int) -> dict[str, Health]:
    healths = {}
    for name, count in in_flight.items():
        health = Health()
        health.in_flight = count
        healths[f"http://{name.replace('_', '-')}:80"] = health
    return healths


def ill(url: str, now: float = 0.0) -> dict[str, Health]:
    health = Health()
    for _ in range(FAILURES):
        health.failed(now)
    return {url: health}


A, B, C = (Target(upstream=f"a/{name}") for name in "abc")


def test_targets_are_drawn_by_weight() -> None:
    given = route(
        A.model_copy(update={"weight": 90}), B.model_copy(update={"weight": 10})
    )
    drawn = draws(given, 5000)
    assert 0.87 < drawn["a-0"] / 5000 < 0.93


def test_a_target_of_weight_0_waits_for_the_others_to_be_tried() -> None:
    given = route(A, B.model_copy(update={"weight": 0}))
    assert set(draws(given, 200)) == {"a-0"}
    assert pick(given, tried={"http://a-0:80"}) == "b-0"


def test_a_lower_tier_waits_for_the_higher_to_be_tried_or_ill() -> None:
    given = route(A, B.model_copy(update={"priority": 1}))
    assert set(draws(given, 50)) == {"a-0"}
    assert pick(given, tried={"http://a-0:80"}) == "b-0"
    assert pick(given, ill("http://a-0:80")) == "b-0"


def test_when_all_are_ill_they_are_tried_all_the_same() -> None:
    given = route(A, B.model_copy(update={"priority": 1}))
    healths = ill("http://a-0:80") | ill("http://b-0:80")
    assert pick(given, healths) == "a-0"


def test_nothing_is_chosen_when_all_were_tried_or_cannot_do_it() -> None:
    given = route(A, a={"capabilities": ("embeddings",)})
    assert pick(given) is None
    assert pick(route(A), tried={"http://a-0:80"}) is None


@pytest.mark.parametrize("strategy", ["weighted", "least-load", "cost"])
def test_of_the_replicas_the_least_busy_is_taken(strategy: str) -> None:
    given = route(A, strategy=strategy, replicas=3)
    healths = busy(a_0=4, a_1=2, a_2=3)
    assert set(draws(given, 50, healths=healths)) == {"a-1"}


@pytest.mark.parametrize("strategy", ["weighted", "least-load", "least-latency"])
def test_equals_share_the_work(strategy: str) -> None:
    drawn = draws(route(A, strategy=strategy, replicas=4), 4000)
    assert all(700 < count < 1300 for count in drawn.values())
    assert len(drawn) == 4


def test_the_faster_of_two_is_taken() -> None:
    slow, fast = Health(), Health()
    slow.succeeded(2.0)
    fast.succeeded(0.2)
    healths = {"http://a-0:80": slow, "http://b-0:80": fast}
    drawn = draws(route(A, B, strategy="least-latency"), 100, healths=healths)
    assert set(drawn) == {"b-0"}


def test_the_cheapest_is_taken_until_it_is_ill() -> None:
    def price(usd: str) -> dict[str, Price]:
        return {"price": Price(input=Money(usd), output=Money(usd))}

    given = route(A, B, strategy="cost", a=price("2USD"), b=price("1USD"))
    assert set(draws(given, 50)) == {"b-0"}
    assert pick(given, ill("http://b-0:80")) == "a-0"


def test_one_prefix_stays_together_and_prefixes_spread() -> None:
    given = route(A, strategy="prefix-affinity", replicas=8)
    for system in ("you are a poet", "you are a judge"):
        asked = chat(system * 200, seed=1), chat(system * 200 + "?", seed=2)
        assert len({pick(given, request=request) for request in asked}) == 1
    spread = {pick(given, request=chat(f"prompt {n}")) for n in range(100)}
    assert len(spread) == 8


def test_affinity_moves_only_what_was_on_the_address_that_left() -> None:
    given = route(A, strategy="prefix-affinity", replicas=8)
    before = {n: pick(given, request=chat(f"prompt {n}")) for n in range(200)}
    gone = {"http://a-3:80"}
    after = {
        n: pick(given, request=chat(f"prompt {n}"), tried=gone) for n in range(200)
    }
    assert all(after[n] == host for n, host in before.items() if host != "a-3")


def test_affinity_gives_way_to_load() -> None:
    given = route(A, strategy="prefix-affinity", replicas=2)
    favourite = pick(given)
    assert favourite is not None
    healths = busy(**{favourite.replace("-", "_"): 10})
    assert pick(given, healths) != favourite


def test_a_session_sticks_whatever_it_says() -> None:
    given = route(A, strategy="sticky", replicas=8)
    hosts = {
        pick(given, request=chat(f"turn {n}", prompt_cache_key="s1")) for n in range(20)
    }
    assert len(hosts) == 1


def test_a_breaker_opens_lets_one_probe_through_and_closes() -> None:
    health = Health()
    for _ in range(FAILURES - 1):
        assert not health.failed(10.0)
    assert health.usable(10.0)
    assert health.failed(10.0)
    assert not health.usable(10.0 + FIRST_PAUSE_S - 0.01)
    assert health.usable(10.0 + FIRST_PAUSE_S)
    health.in_flight = 1  # the probe
    assert not health.usable(10.0 + FIRST_PAUSE_S)
    assert health.failed(12.0)  # the probe failed: twice as long
    health.in_flight = 0
    assert not health.usable(12.0 + 2 * FIRST_PAUSE_S - 0.01)
    health.succeeded(0.1)
    assert health.usable(12.0)
    assert not health.is_open


def test_successes_between_failures_keep_a_breaker_closed() -> None:
    health = Health()
    for _ in range(10):
        health.failed(0.0)
        health.succeeded(0.1)
    assert health.usable(0.0)


def test_an_address_that_asks_for_a_rest_gets_a_bounded_one() -> None:
    health = Health()
    health.rest(0.0, 3600)
    assert not health.usable(MAX_PAUSE_S - 0.1)
    assert health.usable(MAX_PAUSE_S)


def test_retries_are_bounded_to_a_part_of_the_requests() -> None:
    budget = RetryBudget(20)
    while budget.spend():
        pass
    for _ in range(100):
        budget.earn()
    assert sum(budget.spend() for _ in range(100)) == pytest.approx(20, abs=1)


def test_without_a_share_nothing_is_tried_again() -> None:
    budget = RetryBudget(0)
    for _ in range(100):
        budget.earn()
    assert not budget.spend()


def test_a_route_waits_for_an_address_as_long_as_it_says() -> None:
    targets = (Target(upstream="a/x"),)
    tables = {
        "a/r": RouteTable(models=("m",), targets=targets, hold=Duration("2s")),
        "a/s": RouteTable(models=("n",), targets=targets),
    }
    upstreams = {"a/x": Upstream(discovered=True)}
    config = GatewayConfig(upstreams=upstreams, routes=tables)
    routes = compile_snapshot(config, Addresses(), {}).routes
    assert [routes[name].hold for name in tables] == [2, 30]


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.41
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="m"} 1e+06
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Reported(3, 2, 0.41)),
        ("sglang:num_running_reqs 4\nsglang:num_queue_reqs 1\n", Reported(4, 1, 0)),
        ("llamacpp:requests_processing 1\n", Reported(1, 0, 0)),
        ("up 1\n", None),
        ("<html>not metrics</html>", None),
        ("", None),
    ],
)
def test_engines_are_asked_in_their_own_words(text: str, load: Reported | None) -> None:
    assert read_load(text) == load


def test_the_engine_with_the_shortest_queue_is_chosen_while_it_is_believed() -> None:
    given = route(Target(upstream="a/x"), strategy="least-load", replicas=2)
    first, second = Health(), Health()
    healths = {"http://x-0:80": first, "http://x-1:80": second}
    first.hear(Reported(8, 4, 0.5), 0.0)
    second.hear(Reported(9, 0, 0.5), 0.0)
    for draw in (0.0, 0.3, 0.6, 0.9):
        assert pick(given, healths, draw=draw, now=1.0) == "x-1"
    second.hear(Reported(9, 0, 0.99), 1.0)  # it has no room left
    assert pick(given, healths, now=1.0) == "x-0"
    first.in_flight = 3  # all that is known when nobody has spoken lately
    assert pick(given, healths, now=60.0) == "x-1"


def test_what_was_sent_since_an_engine_spoke_counts() -> None:
    health = Health()
    health.in_flight = 2
    health.hear(Reported(2, 0, 0.1), 0.0)
    health.in_flight = 5
    assert health.load(0.5) == 5
    health.in_flight = 0
    assert health.load(0.5) == 0

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from reconciler.optimizer.explain import Explanation, drawn, explain, table
from reconciler.optimizer.fleet import Fleet, place
from reconciler.optimizer.heuristic import Heuristic
from reconciler.optimizer.task import Goal, Goals, Infeasible, Pool, Task


@pytest.fixture
def explained(chat_task: Task) -> Explanation:
    return explain(chat_task, Heuristic())


def test_the_first_alternative_is_what_was_chosen(explained: Explanation) -> None:
    assert explained.best[0] == explained.decision.chosen
    assert len(explained.best) > 3


def test_the_front_serves_more_only_for_more(explained: Explanation) -> None:
    spent = [point.spent for point in explained.decision.front]
    rates = [point.tokens_per_s for point in explained.decision.front]
    assert spent == sorted(spent)
    assert rates == sorted(rates)


def test_the_picture_is_an_svg_with_every_point(explained: Explanation) -> None:
    root = ET.fromstring(drawn(explained))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(explained.decision.front)


def test_the_table_shows_intervals_memory_and_what_binds(
    explained: Explanation,
) -> None:
    text = table(explained)
    assert all(word in text for word in ("binds", "one more", "memory", "rests on"))


def small(task: Task, name: str, pools: tuple[Pool, ...], concurrency: int) -> Task:
    goals = Goals(tpot_ms=Goal(value=60))
    return replace(task, name=name, pools=pools, concurrency=concurrency, goals=goals)


def together(tasks: list[Task]) -> Fleet:
    return place([(task, Heuristic()) for task in tasks])


def test_a_fleet_shares_what_one_alone_would_take(
    chat_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    pools = (
        gpu_pool("H100", per_node=4, nodes=1, usd_per_h=4.0),
        gpu_pool("L40S", per_node=2, nodes=1, usd_per_h=1.0),
    )
    tasks = [small(chat_task, f"e{n}", pools, 16) for n in range(3)]
    fleet = together(tasks)
    assert set(fleet.chosen) == {"e0", "e1", "e2"}
    assert fleet.used["c/l40s"] <= 2
    assert fleet.used["c/h100"] <= 4


def test_a_fleet_is_never_dearer_than_each_at_its_dearest_pool(
    chat_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    cheap = gpu_pool("L40S", per_node=8, nodes=1, usd_per_h=1.0)
    dear = gpu_pool("H100", per_node=8, nodes=1, usd_per_h=4.0)
    tasks = [small(chat_task, f"e{n}", (dear, cheap), 8) for n in range(2)]
    alone = [together([small(chat_task, "e", (dear,), 8)]).usd_per_h for _ in tasks]
    assert together(tasks).usd_per_h <= sum(alone)


def test_a_fleet_that_cannot_fit_says_what_runs_out(
    chat_task: Task, gpu_pool: Callable[..., Pool]
) -> None:
    pools = (gpu_pool("H100", per_node=1, nodes=1, usd_per_h=4.0),)
    tasks = [small(chat_task, f"e{n}", pools, 4) for n in range(2)]
    with pytest.raises(Infeasible, match="c/h100 has 1"):
        together(tasks)

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.lock import Lock, dump
from reconciler.optimizer.artefact import shipped
from reconciler.optimizer.feedback import feedback
from reconciler.resolve import resolve, solve
from reconciler.values import Commit, Desired
from schemas.catalog import catalog
from schemas.environment import Environment
from schemas.errors import SpecError
from schemas.kinds import parse
from schemas.objects import FoundryObject, Ref

CHAT = Ref("Endpoint", "default", "chat")
OTHER = Ref("Endpoint", "default", "other")


def made(kind: str, name: str, spec: Mapping[str, Any]) -> FoundryObject:
    return parse(
        {
            "apiVersion": "foundry.bud/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def endpoint(name: str = "chat", **changes: Any) -> FoundryObject:
    spec = {
        "model": "llama",
        "cluster": "gpus",
        "engine": {"name": "vllm", "version": "0.19.0"},
        "workload": {"inputTokens": 1000, "outputTokens": 200, "concurrency": 16},
        "optimizer": {"method": "heuristic"},
    }
    return made("Endpoint", name, spec | changes)


def desired(
    *endpoints: FoundryObject, nodes: int = 2, gpus: int = 8, memory: str = "8GiB"
) -> Desired:
    machine = {"gpu": "H100", "gpusPerNode": gpus, "memory": memory}
    pool = {"name": "h100", "count": nodes, **machine}
    cluster = made("Cluster", "gpus", {"provider": "local", "nodePools": [pool]})
    model = made(
        "Model",
        "llama",
        {
            "source": {
                "hf": {
                    "repo": "meta-llama/Llama-3.1-8B-Instruct",
                    "revision": "0" * 40,
                }
            },
            "precision": "bf16",
            "licence": {"id": "llama3.1", "accepted": True},
        },
    )
    objects = {item.ref: item for item in (cluster, model, *endpoints)}
    environment = made("Environment", "test", {"take": ["Endpoint/*"]})
    assert isinstance(environment, Environment)
    return Desired(
        commit=Commit(sha="0" * 40),
        environment=environment,
        objects=objects,
        files={ref: f"spec/{ref.kind.lower()}/{ref.name}.yaml" for ref in objects},
        lock={},
    )


def locked(found: Desired) -> Desired:
    return replace(found, lock=yaml.safe_load(dump(solve(found, catalog()))))


def test_what_was_solved_resolves() -> None:
    found = resolve(locked(desired(endpoint())), catalog()).resolutions[CHAT]
    assert found.node_pool == "h100"
    assert found.replicas is not None
    assert found.prediction["ttft_hi"] > found.prediction["ttft_ms"]


def test_an_endpoint_without_an_entry_names_the_way_out() -> None:
    with pytest.raises(SpecError) as caught:
        resolve(desired(endpoint()), catalog())
    (problem,) = caught.value.problems
    assert str(CHAT) in problem.message
    assert "bud resolve" in problem.hint


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (
            {"workload": {"inputTokens": 1, "outputTokens": 200, "concurrency": 16}},
            "workload",
        ),
        ({"slo": {"ttft": {"target": "1s"}}}, "slo"),
        ({"parallelism": {"tensor": 2}}, "parallelism"),
        ({"replicas": 2}, "replicas"),
        ({"engine": {"name": "vllm", "version": "0.20.0"}}, "engine"),
        ({"optimizer": {"method": "heuristic", "seed": 1}}, "optimizer"),
    ],
)
def test_a_stale_entry_names_what_moved(changes: dict[str, Any], part: str) -> None:
    lock = locked(desired(endpoint())).lock
    now = replace(desired(endpoint(**changes)), lock=lock)
    with pytest.raises(SpecError, match=f": {part}.* changed since"):
        resolve(now, catalog())


def test_a_changed_node_pool_makes_stale() -> None:
    lock = locked(desired(endpoint())).lock
    with pytest.raises(SpecError, match="nodePools changed since"):
        resolve(replace(desired(endpoint(), nodes=3), lock=lock), catalog())


def test_what_changes_no_decision_makes_nothing_stale() -> None:
    lock = locked(desired(endpoint())).lock
    quiet = endpoint(
        engine={"name": "vllm", "version": "0.19.0", "env": {"A": "b"}},
        rollout={"maxSurge": 2},
    )
    assert CHAT in resolve(replace(desired(quiet), lock=lock), catalog()).resolutions


def test_solving_one_leaves_the_other_byte_for_byte() -> None:
    before = solve(desired(endpoint(), endpoint("other")), catalog())
    data = yaml.safe_load(dump(before))
    # A mark that solving anew would not leave.
    data["endpoints"]["default/other"]["reason"] = "kept"
    tighter = endpoint(slo={"tpot": {"target": "40ms"}})
    now = replace(desired(tighter, endpoint("other")), lock=data)
    after = solve(now, catalog())
    assert after.entries[OTHER].data == data["endpoints"]["default/other"]
    assert after.entries[CHAT].data != data["endpoints"]["default/chat"]


def test_solving_twice_gives_the_same_bytes() -> None:
    found = desired(endpoint(), endpoint("other"))
    assert dump(solve(found, catalog())) == dump(solve(found, catalog()))


def test_scaling_changes_nothing_but_the_number_of_replicas() -> None:
    one = locked(desired(endpoint(replicas=1)))
    more = endpoint(replicas=2)
    free = solve(desired(more), catalog()).entries[CHAT].resolution
    kept = solve(replace(desired(more), lock=one.lock), catalog()).entries[CHAT]
    before = resolve(one, catalog()).resolutions[CHAT]
    assert replace(kept.resolution, replicas=1, prediction={}) == replace(
        before, prediction={}
    )
    # What a simulator is told stays as well, or it would be started anew.
    assert kept.resolution.rehearsal["tpot_ms"] == before.prediction["tpot_ms"]
    assert free.max_batch != before.max_batch  # asked anew it would be another
    assert kept.resolution.prediction["tpot_ms"] < before.prediction["tpot_ms"]
    again = replace(
        desired(more), lock=yaml.safe_load(dump(Lock(entries={CHAT: kept})))
    )
    assert resolve(again, catalog()).resolutions[CHAT] == kept.resolution


def test_scaling_on_shared_cpus_keeps_each_replica() -> None:
    changes: dict[str, Any] = {"engine": {"name": "llamacpp"}, "precision": "q4_k_m"}
    one = locked(desired(endpoint(replicas=1, **changes), nodes=1, memory="32GiB"))
    more = desired(endpoint(replicas=2, **changes), nodes=1, memory="32GiB")
    more = replace(more, lock=one.lock)
    before = resolve(one, catalog()).resolutions[CHAT]
    after = solve(more, catalog()).entries[CHAT].resolution
    assert (after.max_batch, after.context) == (before.max_batch, before.context)


def test_what_more_replicas_cannot_keep_is_decided_anew() -> None:
    fastest = {"method": "heuristic", "objective": "latency"}
    one = locked(desired(endpoint(replicas=1, optimizer=fastest), nodes=1, gpus=4))
    before = resolve(one, catalog()).resolutions[CHAT]
    four = desired(endpoint(replicas=4, optimizer=fastest), nodes=1, gpus=4)
    after = solve(replace(four, lock=one.lock), catalog()).entries[CHAT].resolution
    assert before.tensor == 4
    assert (after.tensor, after.replicas) == (1, 4)


def test_a_precision_that_is_allowed_is_weighed() -> None:
    allowed = {"method": "heuristic", "constraints": {"precisions": ["fp8"]}}
    found = resolve(locked(desired(endpoint(optimizer=allowed))), catalog())
    assert found.resolutions[CHAT].precision == "fp8"
    with pytest.raises(ValueError, match="leaves it open"):
        endpoint(optimizer=allowed, precision="bf16")


def test_only_clusters_of_the_regions_are_asked() -> None:
    there = {"method": "heuristic", "constraints": {"regions": ["eu-north-1"]}}
    placed = made(
        "Endpoint",
        "chat",
        {
            "model": "llama",
            "placement": {},
            "engine": {"name": "vllm"},
            "workload": {"inputTokens": 1000, "outputTokens": 200, "concurrency": 16},
            "optimizer": there,
        },
    )
    with pytest.raises(SpecError, match="no node pool that may be used"):
        solve(desired(placed), catalog())


def test_what_a_team_measured_is_an_input(chat_lines: list[dict[str, str]]) -> None:
    one = desired(endpoint(optimizer={"method": "regressor"}))
    before = locked(one)
    known = feedback(chat_lines, {}, shipped(), catalog()).data()
    lock = {**before.lock, "calibration": known}
    with pytest.raises(SpecError, match=": calibration changed since"):
        resolve(replace(one, lock=lock), catalog())
    after = solve(replace(one, lock=lock), catalog())
    again = yaml.safe_load(dump(after))
    assert again["calibration"] == known
    now = resolve(replace(one, lock=again), catalog()).resolutions[CHAT].prediction
    then = resolve(before, catalog()).resolutions[CHAT].prediction
    assert now["tpot_ms"] > then["tpot_ms"]


@pytest.fixture
def chat_lines() -> list[dict[str, str]]:
    """Ten runs of the chat endpoint that took 20 ms a token."""
    line = {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100", "isl": "1000"}
    line |= {"backend": "vllm", "backend_version": "0.19.0", "precision": "bf16"}
    line |= {"osl": "200", "concurrency": "16", "gpus": "1", "tp": "1"}
    return [{**line, "tpot_ms": "20"}] * 10


def test_another_process_decides_the_same_bytes() -> None:
    here = Path(__file__)
    code = (
        f"import sys; sys.path[:0] = [{str(here.parents[2])!r}, {str(here.parent)!r}]\n"
        "from test_resolve import *\n"
        "learned = endpoint(optimizer={'method': 'regressor'})\n"
        "sys.stdout.buffer.write(dump(solve(desired(learned), catalog())))\n"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    assert made[0] == made[1]
    assert b"regressor/1" in made[0]


def test_an_endpoint_that_is_gone_leaves_the_lock() -> None:
    both = locked(desired(endpoint(), endpoint("other")))
    assert set(
        solve(replace(desired(endpoint()), lock=both.lock), catalog()).entries
    ) == {CHAT}


def test_infeasible_names_the_constraint_and_three_alternatives() -> None:
    hopeless = endpoint(slo={"tpot": {"target": "1us"}})
    with pytest.raises(SpecError) as caught:
        solve(desired(hopeless), catalog())
    (problem,) = caught.value.problems
    assert "nothing meets tpot p95 <= 0.001 ms" in problem.message
    assert problem.hint.count("missed by") >= 3


def test_a_replica_under_an_autoscaler_is_not_ours_to_count() -> None:
    scaled = endpoint(scaling={"min": 1, "max": 4, "queueDepth": 8})
    found = resolve(locked(desired(scaled)), catalog()).resolutions[CHAT]
    assert found.replicas is None


def test_a_lock_of_another_version_says_so() -> None:
    with pytest.raises(SpecError, match="version is 9"):
        resolve(replace(desired(endpoint()), lock={"version": 9}), catalog())


@pytest.mark.parametrize("method", ["heuristic", "regressor"])
def test_both_methods_keep_what_is_set(method: str) -> None:
    fixed = endpoint(
        optimizer={"method": method},
        parallelism={"tensor": 2, "pipeline": 1, "data": 1, "expert": 1},
        maxBatch=12,
        replicas=2,
        context=4096,
    )
    found = resolve(locked(desired(fixed)), catalog()).resolutions[CHAT]
    assert (found.tensor, found.pipeline, found.max_batch) == (2, 1, 12)
    assert (found.replicas, found.context) == (2, 4096)

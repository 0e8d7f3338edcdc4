from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.lock import Lock, digest, dump, entry, parse, stale
from reconciler.optimizer.task import Candidate, Decision
from schemas.objects import Ref

INPUTS = {"workload": {"inputTokens": 100}, "slo": None, "method": "heuristic/1"}
REF = Ref("Endpoint", "default", "chat")


def decision(ttft_ms: float = 123.456789, replicas: int = 2) -> Decision:
    chosen = Candidate(
        cluster="c", node_pool="p", gpu="h100-sxm-80gb", tensor=2, pipeline=1, data=1,
        expert=1, max_batch=16, chunk=8192, precision="fp8", replicas=replicas,
        usd_per_h=12.345678, prediction={"ttft_ms": ttft_ms, "tpot_ms": 1 / 3, "concurrency": 8.0},
    )  # fmt: skip
    return Decision(
        chosen=chosen, context=4096, alternatives=(chosen,) * 3, reason="because",
        binding="", memory_gib={"needed": 10.0, "needed_lo": 9.5, "needed_hi": 12.0},
        method="heuristic/1", considered=5,
    )  # fmt: skip


def lock(**changes: float) -> Lock:
    made = entry(decision(**changes), INPUTS, autoscaled=False)
    return Lock(entries={REF: made})


def test_a_lock_survives_a_round_trip() -> None:
    data = yaml.safe_load(dump(lock()))
    assert dump(lock()) == dump(parse(data))
    assert lock().entries[REF].resolution == parse(data).entries[REF].resolution


def test_the_same_values_are_the_same_bytes_in_another_process() -> None:
    script = (
        "import importlib.util as u, sys;"
        "s = u.spec_from_file_location('t', sys.argv[1]);"
        "m = u.module_from_spec(s); s.loader.exec_module(m);"
        "sys.stdout.buffer.write(m.dump(m.lock()))"
    )
    made = subprocess.run(
        [sys.executable, "-c", script, __file__],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
        capture_output=True,
        check=True,
    )
    assert dump(lock()) == made.stdout


def test_a_changed_input_is_named() -> None:
    found = lock().entries[REF]
    assert stale(found, INPUTS) == ()
    assert stale(found, {**INPUTS, "workload": {"inputTokens": 101}}) == ("workload",)


def test_a_new_and_a_gone_input_are_named() -> None:
    found = lock().entries[REF]
    without = {k: v for k, v in INPUTS.items() if k != "slo"}
    assert stale(found, {**without, "adapters": []}) == ("adapters", "slo")


def test_noise_below_four_digits_changes_no_byte() -> None:
    assert dump(lock(ttft_ms=123.4567)) == dump(lock(ttft_ms=123.4567001))


def test_replicas_are_not_written_under_an_autoscaler() -> None:
    made = entry(decision(), INPUTS, autoscaled=True)
    assert made.resolution.replicas is None


def test_a_lock_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version is 2, not 1"):
        parse({"version": 2, "endpoints": {}})


def test_an_entry_that_lacks_a_part_is_named() -> None:
    data = yaml.safe_load(dump(lock()))
    del data["endpoints"]["default/chat"]["chosen"]["tensor"]
    with pytest.raises(ValueError, match="'default/chat' lacks 'tensor'"):
        parse(data)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json))
def test_the_order_of_keys_changes_no_digest(content: dict[str, object]) -> None:
    assert digest(content) == digest(dict(reversed(content.items())))

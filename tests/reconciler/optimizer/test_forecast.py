from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.optimizer.artefact import shipped
from reconciler.optimizer.cli import optimizer
from reconciler.optimizer.forecast import COLUMNS, estimates_of
from reconciler.optimizer.performance import Regime
from reconciler.optimizer.rows import cases_of, row_of
from schemas.catalog import catalog
from schemas.errors import PermanentError

KNOWN = {
    "model": "meta-llama/Llama-3.1-70B",
    "gpu": "h200_sxm",
    "backend": "vllm",
    "backend_version": "",
    "precision": "fp8",
    "isl": "1024",
    "osl": "1024",
    "concurrency": "16",
    "gpus": "4",
    "tp": "4",
    "pp": "1",
    "attn_dp": "1",
    "ep": "1",
}


def written(folder: Path, *lines: dict[str, str]) -> Path:
    path = folder / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*KNOWN], restval="")
        writer.writeheader()
        writer.writerows(lines)
    return path


def predicted(source: Path) -> list[dict[str, str]]:
    output = source.with_name("out.csv")
    arguments = ["predict", "--input", str(source), "--output", str(output)]
    result = CliRunner().invoke(optimizer, arguments)
    assert result.exit_code == 0, result.output
    with output.open() as stream:
        return list(csv.DictReader(stream))


def test_one_line_out_for_each_line_in_in_order(tmp_path: Path) -> None:
    loads = ["64", "4", "256", "16"]
    lines = [KNOWN | {"concurrency": load} for load in loads]
    out = predicted(written(tmp_path, *lines))
    assert list(out[0]) == list(COLUMNS)
    by_load = sorted(zip(map(int, loads), (float(o["tpot_ms"]) for o in out)))  # noqa: B905
    assert [t for _, t in by_load] == sorted(float(o["tpot_ms"]) for o in out)


def test_an_empty_file_gives_an_empty_file(tmp_path: Path) -> None:
    assert predicted(written(tmp_path)) == []


def test_what_is_no_table_is_said_and_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes(b"model,gpu\nm\xff\xfe,H100\n,\n")
    assert len(predicted(path)) == 2
    path.write_bytes(b"model\n" + b"x" * 200_000 + b"\n")
    arguments = ["predict", "--input", str(path), "--output", str(path)]
    found = CliRunner().invoke(optimizer, arguments).exception
    assert isinstance(found, PermanentError)
    assert "cannot read" in str(found)


def test_a_load_that_is_not_said_gets_the_widest_band() -> None:
    rows = [row_of(KNOWN | {"isl": isl}, catalog()) for isl in ("1024", "nan")]
    assert (rows[1].input_tokens, rows[1].assumed) == (1024, ("isl 'nan'",))
    ttft = estimates_of(rows, shipped())["ttft"]
    assert ttft.high[1] > ttft.high[0]


texts = st.text(st.characters(codec="ascii", exclude_characters="\r\n\0"), max_size=12)
junk = st.dictionaries(
    st.sampled_from(list(KNOWN)),
    texts
    | st.sampled_from(["-1", "0", "1e300", "nan", "inf", "3.7", "13B", "Moe-9x7b"]),
)


@given(junk)
@settings(deadline=None, max_examples=40)
def test_whatever_a_line_says_it_is_predicted(line: dict[str, str]) -> None:
    row = row_of(KNOWN | line, catalog())
    for estimate in estimates_of([row], shipped()).values():
        numbers = (estimate.low[0], estimate.value[0], estimate.high[0])
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        assert list(numbers) == sorted(numbers)


def test_an_unknown_gpu_is_said_and_gets_the_widest_band() -> None:
    lines = [KNOWN, KNOWN | {"gpu": "h900_sxm"}]
    rows = [row_of(line, catalog()) for line in lines]
    assert rows[1].assumed == ("gpu 'h900_sxm'",)
    tpot = estimates_of(rows, shipped())["tpot"]
    width = tpot.high / tpot.low
    assert width[1] > 1.3 * width[0]


@pytest.mark.parametrize(
    ("changes", "regime"),
    [
        ({"concurrency": "20"}, Regime.CONFIGURATION),
        ({"tp": "3", "gpus": "3"}, Regime.CURVE),
        ({"gpu": "b300_sxm"}, Regime.CELL),
        ({"model": "meta-llama/Llama-3.1-405B"}, Regime.MODEL),
        ({"gpu": "a100_sxm"}, Regime.OUTSIDE),
        ({"pp": "2"}, Regime.OUTSIDE),
    ],
)
def test_the_regime_is_how_far_it_is_from_what_was_measured(
    changes: dict[str, str], regime: Regime
) -> None:
    cases = cases_of([row_of(KNOWN | changes, catalog())])
    assert int(shipped().regimes(cases)[0]) == regime


def test_intervals_widen_with_the_distance() -> None:
    for bands in shipped().bands.values():
        widths = [bands[r, False].high - bands[r, False].low for r in Regime]
        assert widths[0] < widths[1] < min(widths[2], widths[3]) < widths[4]

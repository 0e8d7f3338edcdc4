"""One entry has one byte form, and nothing else is read back."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ledger import GENESIS, Draft, Entry, link, parse, rfc3339, seal
from reconciler.ledger.entry import MAX_ERROR, MAX_LINE, OUTCOMES

text = st.text(max_size=40)  # no lone surrogates: hypothesis leaves them out
moments = st.datetimes(timezones=st.just(UTC))
drafts = st.builds(
    Draft,
    actor=text,
    commit=text,
    plan=text,
    step=text,
    target=text,
    before=text,
    after=text,
    uid=text,
    outcome=st.sampled_from(sorted(OUTCOMES)),
    error=text,
)
entries = st.builds(
    lambda draft, seq, at, prev: seal(draft, seq=seq, at=at, prev=prev),
    drafts,
    st.integers(0, 2**53 - 1),
    moments,
    st.binary(min_size=32, max_size=32),
)
DRAFT = Draft(actor="a", commit="c", plan="p", step="s", target="t", outcome="created")


@given(entries)
def test_the_line_is_rfc_8785(entry: Entry) -> None:
    assert entry.line() == rfc8785.dumps(asdict(entry))


@given(entries)
def test_a_line_reads_back_as_its_entry(entry: Entry) -> None:
    assert parse(entry.line()) == entry


@given(entries, st.sampled_from([{"indent": 1}, {"separators": (", ", ":")}, {}]))
def test_no_other_spelling_of_an_entry_is_read(
    entry: Entry, style: dict[str, Any]
) -> None:
    spelled = json.dumps(asdict(entry), sort_keys=True, ensure_ascii=False, **style)
    with pytest.raises(ValueError, match="not in canonical form"):
        parse(spelled.encode())


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ('"seq":1', '"seq":1.0'),
        ('"seq":1', '"seq":1e0'),
        ('"seq":1', '"seq":-1'),
        ('"seq":1', '"seq":9007199254740992'),
        ('"prev":"0', '"prev":"'),
        ('"seq":1', '"seq":true'),
        ('"seq":1', '"seq":"1"'),
        ('"seq":1', '"seq":99999999999999999999'),
        ('"actor":"a"', '"actor":"\\u0061"'),
        ('"actor":"a"', '"actor":null'),
        ('"actor":"a",', ""),
        ('"actor":"a",', '"actor":"a","actor":"a",'),
        ('"actor":"a",', '"acted":"a",'),
        ('"outcome":"created"', '"outcome":"done"'),
        (":00.000000Z", ":00Z"),
        (":00.000000Z", ":00.000000+00:00"),
        ("}", "}\n"),
        ("}", ""),
        ("{", "[{"),
    ],
)
def test_a_line_that_is_no_entry_is_refused(found: str, wrong: str) -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    line = seal(DRAFT, seq=1, at=at, prev=GENESIS).line().decode()
    assert found in line
    with pytest.raises(
        ValueError, match=r"form|fields|is |JSON|expected|character|data"
    ):
        parse(line.replace(found, wrong).encode())


def test_a_line_has_a_limit() -> None:
    entry = seal(DRAFT, seq=0, at=datetime(2026, 11, 23, tzinfo=UTC), prev=GENESIS)
    with pytest.raises(ValueError, match="cannot record step"):
        seal(
            replace(DRAFT, uid="x" * MAX_LINE),
            seq=0,
            at=datetime(2026, 11, 23, tzinfo=UTC),
            prev=GENESIS,
        )
    with pytest.raises(ValueError, match="longer than"):
        parse(replace(entry, uid="x" * MAX_LINE).line())


def test_whatever_a_tool_printed_can_be_recorded() -> None:
    printed = b"\xff\xfe exploded ".decode(errors="surrogateescape") * MAX_ERROR
    at = datetime(2026, 11, 23, tzinfo=UTC)
    entry = seal(replace(DRAFT, error=printed), seq=0, at=at, prev=GENESIS)

    assert entry.error.startswith("?? exploded ")
    assert len(entry.error) == MAX_ERROR
    assert parse(entry.line()) == entry


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (replace(DRAFT, outcome="done"), "outcome is 'done'"),
        (replace(DRAFT, step="\ud800"), "cannot record step"),
        (replace(DRAFT, uid=None), "cannot record step"),
    ],
)
def test_what_cannot_be_recorded_is_refused(draft: Draft, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seal(draft, seq=0, at=datetime(2026, 11, 23, tzinfo=UTC), prev=GENESIS)


def test_a_time_is_utc_with_microseconds() -> None:
    at = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2)))

    assert rfc3339(at) == "2026-11-23T10:00:00.000000Z"
    with pytest.raises(ValueError, match="has no zone"):
        rfc3339(at.replace(tzinfo=None))


def test_the_chain_depends_on_every_entry_before(log: tuple[bytes, ...]) -> None:
    head = GENESIS
    for line in log:
        assert parse(line).prev == head.hex()
        head = link(head, line)
    assert link(link(GENESIS, log[1]), log[0]) != link(link(GENESIS, log[0]), log[1])

"""One file says one thing to everyone, and cannot cost more than its budget."""

from __future__ import annotations

import tracemalloc
from datetime import date

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from reconciler.yaml_reader import OBJECT, Budget, read_yaml
from schemas.errors import SpecError

BILLION_LAUGHS = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in b"bcdefghi"
)
MERGE_BOMB = b"a: &a {%s}\n" % b", ".join(b"k%d: 1" % i for i in range(6)) + b"".join(
    b"%c: &%c {x: {<<: *%c}, y: {<<: *%c}}\n" % (n, n, n - 1, n - 1) for n in b"bcdefg"
)


def content(text: str | bytes, budget: Budget = OBJECT):
    data = text if isinstance(text, bytes) else text.encode()
    return read_yaml(data, "f.yaml", budget)[0]


def refused(text: str | bytes, budget: Budget = OBJECT) -> str:
    with pytest.raises(SpecError) as caught:
        content(text, budget)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None),
        ("true", True), ("FALSE", False), ("True", True),
        ("0", 0), ("-0", 0), ("+7", 7), ("10", 10), ("0x1F", 31),
        ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
        ("1.5", 1.5), ("1.", 1.0), (".5", 0.5), ("1.0e+3", 1000.0), ("-1.5e-3", -0.0015),
        ("y", "y"), ("n", "n"), ("nope", "nope"), ("onward", "onward"), ("tRue", "tRue"),
        ("1.2.3", "1.2.3"), ("2001-01-01", "2001-01-01"), ("08:00", "08:00"),
        ("12:61", "12:61"), ("1a", "1a"), ("200ms", "200ms"), ("=", "="), ("-", "-"),
        ("'no'", "no"), ('"010"', "010"), ('"12:30:45"', "12:30:45"), ("'~'", "~"),
        ("a#b", "a#b"), ("a # b", "a"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_yaml_1_2(written, value):
    if written == "-":
        written = "'-'"
    read = content(f"a: {written}\n")["a"]
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    "written",
    [
        "yes", "No", "ON", "off",
        "010", "-007", "00",
        "1e3", "1.5E3", "+.5", "0o17", "12e45",
        "1_000", "-0x1f", "0x_1f", "0b101", "1_0.5",
        "12:30:45", "1:30", "190:20:30.15",
        ".inf", "-.INF", ".NaN", "1e999",
        "9223372036854775808", "-9223372036854775809", "9" * 5000, "1" * 5000 + ".0",
        "0x" + "f" * 17,
    ],
)  # fmt: skip
def test_a_scalar_with_two_meanings_is_refused_with_both_ways_to_write_it(written):
    found = refused(f"a:\n  - {written}\n")
    assert found.startswith(f"f.yaml:2:5: a[0]: cannot read {written[:40]}")
    assert "quote it" in found
    assert content(f"a: '{written}'\n") == {"a": written}


words = st.sampled_from(
    ["true", "No", "off", ".inf", ".NaN", "null", "~", "0x", "0o", "0b"]
)


@given(
    st.lists(words | st.sampled_from("0123456789+-._:eExob"), max_size=9).map("".join)
)
def test_what_is_read_means_the_same_to_a_reader_of_yaml_1_1(written):
    """PyYAML is one: whatever it reads otherwise has to be refused. Dates are not:
    the text names the same day."""
    text = f"a: {written}\n"
    try:
        ours = content(text)["a"]
    except SpecError:
        return
    theirs = yaml.safe_load(text)["a"]
    if not isinstance(theirs, date):
        assert (type(ours), ours) == (type(theirs), theirs)


@pytest.mark.parametrize(
    ("name", "bomb"), [("aliases", BILLION_LAUGHS), ("merge keys", MERGE_BOMB)]
)
def test_a_bomb_costs_what_its_bytes_cost(name, bomb):
    assert len(bomb) < 600
    tracemalloc.start()
    refused(bomb)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 40, "more than 32 levels deep"),
        ("a: [" + "x," * 20_001 + "]", "more than 20,000 values"),
        ("#" * (1 << 20) + "\n", "more than 1,048,576 bytes"),
        (f"{'k' * 1001}: 1", "the path of a field is longer than 1,000"),
        ("a: &a [x]\nb: &b [*a]\n" + "".join(f"c{i}: *b\n" for i in range(9000)), "more than 20,000 values, aliases expanded"),
    ],
    ids=["depth", "nodes", "bytes", "key", "aliases"],
)  # fmt: skip
def test_each_budget_holds(text, message):
    assert message in refused(text)


def test_depth_is_counted_through_aliases():
    chain = "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 40))
    assert "more than 32 levels deep" in refused(f"a0: &a0 [x]\n{chain}")


def test_an_alias_repeats_a_value():
    assert content("a: &x {b: [1]}\nc: *x\n") == {"a": {"b": [1]}, "c": {"b": [1]}}


def test_every_problem_of_a_file_comes_at_once():
    found = refused("a: no\nb: 010\na: *gone\nc: !t d\n'': 1\n")
    assert found.count("f.yaml:") == 6


def test_every_field_has_a_place():
    data = b"a:\n  - b: 1\n    c.d/e: 'x'\n  - &n {f: 2}\ng: *n\n"
    places = read_yaml(data, "f.yaml")[1]
    assert places["a"] == (2, 3)
    assert places["a[0].b"] == (2, 8)
    assert places['a[0]["c.d/e"]'] == (3, 12)
    assert places['a[0]["c.d/e"]#key'] == (3, 5)
    assert places["a[1].f"] == (4, 12)
    assert places["g"] == (5, 4)
    assert places.plain("a[0].b") == "1"
    assert places.plain('a[0]["c.d/e"]') is None


def test_columns_count_characters_and_not_bytes():
    places = read_yaml("{ä: 1, b: 2}\n".encode(), "f.yaml")[1]
    assert places["b"] == (1, 11)


bits = st.sampled_from(
    [
        *"abc01 :-?[]{},#&*!|>'\"%@`~<=\n\t\r\\/.",
        "\n  ", "\n- ", ": ", "&a ", "*a", "<<: ", "---\n", "...\n", "!!str ", "%YAML 1.1\n",
        "\x00", "\x1b", "\x85", "\u2028", "\ufeff", "ä", "🙂", '"\\ud800"', '"\\x00"',
    ]
)  # fmt: skip


@given(
    st.binary(max_size=60)
    | st.lists(bits, max_size=40).map(lambda b: "".join(b).encode())
)
def test_no_bytes_do_anything_but_read_or_be_refused(data):
    try:
        fields, places = read_yaml(data, "f.yaml")
    except SpecError as refusal:
        said = str(refusal).replace("\n", "")
    else:
        assert isinstance(fields, dict)
        said = "".join(places)
        lines = data.decode().splitlines() or [""]
        assert all(1 <= line <= len(lines) + 1 for line, _ in places.values())
    # What is said of a file can be shown on any terminal.
    assert said.isprintable()

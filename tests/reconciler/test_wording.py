"""Whatever pydantic may find wrong, a person reads what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.document import read_object
from reconciler.wording import PATTERNS, field_names, field_paths
from schemas.errors import SpecError
from schemas.kinds import KINDS, json_schema
from schemas.objects import API_VERSION, Ref
from schemas.units import Quantity

CANARY = "canary-hunter2"


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str) and "examples" not in schema:
            yield schema["pattern"]
        yield from (p for inner in schema.values() for p in patterns(inner))
    elif isinstance(schema, list):
        yield from (p for inner in schema for p in patterns(inner))


@pytest.mark.parametrize("kind", KINDS)
def test_every_pattern_of_a_kind_has_words(kind):
    assert set(patterns(json_schema(kind))) <= set(PATTERNS)


def test_field_names_are_those_that_are_written():
    assert {
        "nodePools",
        "gpusPerNode",
        "secret",
        "maxTtftIncreasePercent",
    } <= field_names()
    assert not {"node_pools", "HF_TOKEN"} & field_names()


@pytest.mark.parametrize(
    "spec",
    [
        f"credentials: {CANARY}",
        f"credentials: [{CANARY}]",
        f"credentials: {{env: {CANARY}}}",
        f"credentials: {{secret: {CANARY}}}",
        f"credentials: {{file: [{CANARY}]}}",
        f"credentials: {{value: {CANARY}}}",
        f"apiKey: {CANARY}",
        f"password: {CANARY}",
        f"baseUrl: {CANARY}",
        f"baseUrl: http://me:{CANARY}@example.com",
        f"apiVersion: {{token: {CANARY}}}",
    ],
)
def test_no_message_repeats_what_may_be_a_secret(spec):
    text = f"apiVersion: foundry.bud/v1\nkind: Provider\nmetadata: {{name: x}}\nspec:\n  {spec}\n"
    with pytest.raises(SpecError) as caught:
        read_object(
            text.encode(), "x.yaml", Ref("Provider", "default", "x"), partial=False
        )
    assert CANARY not in str(caught.value)


def test_every_unit_says_what_it_would_have_read():
    for unit in Quantity.__subclasses__():
        with pytest.raises(ValueError, match=unit.example):
            unit("1")


@pytest.mark.timeout(60)  # comparing each field with each takes minutes
def test_a_file_that_is_wrong_everywhere_is_told_in_time():
    fields = "".join(f"  f{i}: 1\n" for i in range(19_000))
    text = f"apiVersion: foundry.bud/v1\nkind: Endpoint\nmetadata: {{name: x}}\nspec:\n{fields}"
    with pytest.raises(SpecError, match="cannot use 19,003 of its fields") as caught:
        read_object(
            text.encode(), "x.yaml", Ref("Endpoint", "default", "x"), partial=False
        )
    assert len(caught.value.problems) <= 101


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=8)
    | st.sampled_from(["1s", "1GiB", "a", "local", "vllm", "Endpoint/*", "0" * 64])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*sorted(field_names())]) | st.text("aB.-/ é", max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.sampled_from([*KINDS]), st.data())
def test_whatever_is_wrong_has_a_place_and_words(kind, data):
    names = st.sampled_from([f for f in field_paths(KINDS[kind]) if f.count(".") == 1])
    spec = {
        name.removeprefix("spec."): data.draw(values)
        for name in data.draw(st.lists(names, max_size=4))
    }
    content = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": data.draw(st.just(spec) | values),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    try:
        read_object(text, "x.yaml", Ref(kind, "default", "x"), partial=False)
    except SpecError as refusal:
        problems = refusal.problems
    else:
        problems = ()
    for problem in problems:
        assert problem.line > 0
        assert problem.message.isprintable()
        assert problem.hint.isprintable()
        assert "Input should" not in problem.message

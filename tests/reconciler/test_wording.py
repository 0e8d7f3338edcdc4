"""Whatever pydantic may find wrong, a person reads what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.document import read_object
from reconciler.wording import PATTERNS, field_names
from schemas.errors import SpecError
from schemas.kinds import KINDS, json_schema
from schemas.objects import Ref
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


def test_a_file_that_is_wrong_everywhere_is_told_in_time():
    fields = "".join(f"  f{i}: 1\n" for i in range(19_000))
    text = f"apiVersion: foundry.bud/v1\nkind: Endpoint\nmetadata: {{name: x}}\nspec:\n{fields}"
    start = time.perf_counter()
    with pytest.raises(SpecError, match="cannot use 19,003 of its fields") as caught:
        read_object(
            text.encode(), "x.yaml", Ref("Endpoint", "default", "x"), partial=False
        )
    assert len(caught.value.problems) <= 101
    assert time.perf_counter() - start < 10

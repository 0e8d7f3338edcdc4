"""A quantity keeps its unit, and a number without one is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.units import Bytes, Duration, Money, Quantity, TokenRate

KINDS = (Bytes, Duration, Money, TokenRate)
amounts = st.decimals(0, 10**15 - 1, places=3, allow_nan=False).map(lambda d: f"{d:f}")


class Field(BaseModel):
    model_config = ConfigDict(strict=True)
    value: Duration


@given(
    st.sampled_from([(kind, unit) for kind in KINDS for unit in kind.units]), amounts
)
def test_what_is_written_is_what_is_kept(which, amount):
    kind, unit = which
    quantity = kind(f"{amount}{unit}")
    assert str(quantity) == f"{amount}{unit}"
    assert kind(str(quantity)) == quantity
    assert hash(kind(f" {amount} {unit} ")) == hash(quantity)


@given(amounts, amounts)
def test_order_follows_the_value_and_not_the_text(one, other):
    a, b = Duration(f"{one}ms"), Duration(f"{other}s")
    assert (a < b) == (Decimal(one) < Decimal(other) * 1000)
    assert (a == b) == (Decimal(one) == Decimal(other) * 1000)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Duration("1.5h"), Duration("90m")),
        (Duration("1d"), Duration("86400s")),
        (Duration("1ms"), Duration("1000us")),
        (Bytes("1GiB"), Bytes("1024MiB")),
        (Bytes("1GB"), Bytes("1000MB")),
        (TokenRate("60tok/min"), TokenRate("1tok/s")),
    ],
)
def test_units_of_one_size_are_equal(one, other):
    assert one == other
    assert hash(one) == hash(other)


def test_each_number_is_offered_under_a_name_with_its_unit():
    assert Duration("1.5s").ms == 1500
    assert Duration("200ms").seconds == 0.2
    assert Bytes("80GiB").gib == 80
    assert Bytes("1kB").bytes == 1000
    assert Bytes("1KiB").bytes == 1024
    assert TokenRate("120tok/min").tokens_per_s == pytest.approx(2)
    assert Money("12.50USD").usd == Decimal("12.50")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "-1s", "1 parsec", "1e3s", "1.s", ".5s", "1,5s", "nans", "\u0661s", "1s\n2s", "9" * 16 + "s"],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(kind, text):
    with pytest.raises(ValueError, match=f"such as {kind.example}"):
        kind(text)


@pytest.mark.parametrize("value", [1, 1.5, True, None, ["1s"]])
def test_a_value_without_a_unit_is_refused(value):
    with pytest.raises(ValidationError, match="a bare number has no unit"):
        Field(value=value)


def test_quantities_of_two_kinds_never_compare():
    assert Duration("1s") != Bytes("1B")
    with pytest.raises(TypeError):
        assert Duration("1s") < Bytes("1B")


def test_a_refusal_is_short_however_long_the_text():
    with pytest.raises(ValueError, match="cannot read") as caught:
        Duration("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_every_quantity_is_tested_here():
    assert set(Quantity.__subclasses__()) == set(KINDS)

"""docs/spec.md says what the models say: examples and tables are written from the
files and the models (``--update-golden``), and compared here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from schemas.kinds import KINDS
from schemas.objects import Credential, PodCredential, Refers
from schemas.units import Quantity

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "spec.md"
PART = re.compile(
    r"(<!-- (units|example|fields)(?: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL
)
SIMPLE = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    datetime: "time, such as 2027-01-31T00:00:00Z",
}


def written() -> str:
    def fill(part: re.Match[str]) -> str:
        return part[1] + CONTENT[part[2]](part[3]) + part[4]

    return PART.sub(fill, REFERENCE.read_text())


def units(_: str) -> str:
    kinds = sorted(Quantity.__subclasses__(), key=lambda unit: unit.noun)
    return table(("what", "units", "example"), map(unit_row, kinds))


def unit_row(unit: type[Quantity]) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in unit.units)
    return unit.noun.split(" ", 1)[1], names, f"`{unit.example}`"


def table(head: tuple[str, ...], body: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def example(file: str) -> str:
    return f"```yaml\n{(ROOT / file).read_text()}```\n"


def fields(kind: str) -> str:
    spec = KINDS[kind].model_fields["spec"].annotation
    return table(("field", "holds", "left out"), rows(spec, ""))


def rows(model: Any, above: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        path = f"{above}{field.alias or name}"
        annotation: Any = field.annotation
        refers = next((m.kind for m in field.metadata if isinstance(m, Refers)), None)
        below = model_in(annotation)
        holds = holds_of(annotation, refers)
        if field.description:
            holds += f": {' '.join(field.description.split())}"
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            left_out = "**required**"
        elif default in (None, "", (), {}) or isinstance(default, BaseModel):
            left_out = ""
        else:
            left_out = (
                f"`{str(default).lower() if isinstance(default, bool) else default}`"
            )
        yield f"`{path}`", holds.replace("|", "\\|"), left_out
        if below is not None and not issubclass(below, Credential):
            listed = "[]" if get_origin(strip(annotation)) is tuple else ""
            yield from rows(below, f"{path}{listed}.")


def strip(annotation: Any) -> Any:
    """Without Annotated and without None."""
    if get_origin(annotation) is Annotated:
        return strip(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        inner = [a for a in get_args(annotation) if a is not NoneType]
        return strip(inner[0]) if len(inner) == 1 else annotation
    return annotation


def model_in(annotation: Any) -> type[BaseModel] | None:
    annotation = strip(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return (
        model_in(get_args(annotation)[0]) if get_origin(annotation) is tuple else None
    )


def holds_of(annotation: Any, refers: str | None) -> str:
    annotation = strip(annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if refers is not None:
        return f"names of {refers}s" if origin is tuple else f"name of a {refers}"
    if origin is tuple:
        return f"list of {holds_of(inner[0], None)}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(holds_of(a, None) for a in inner))
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    return "fields of one's own" if origin is dict else class_name(annotation)


def class_name(annotation: type) -> str:
    if issubclass(annotation, Credential):
        more = ", or an `externalSecret`" if annotation is PodCredential else ""
        return f"a reference{more} (see [Secrets](#secrets))"
    if issubclass(annotation, Quantity):
        return annotation.noun.split(" ", 1)[1]
    return "fields" if issubclass(annotation, BaseModel) else SIMPLE[annotation]


CONTENT = {"units": units, "example": example, "fields": fields}


def test_the_reference_says_what_the_models_say(update_golden):
    current = written()
    if update_golden:
        REFERENCE.write_text(current)
    assert REFERENCE.read_text() == current


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_section_an_example_and_its_fields(kind):
    text = REFERENCE.read_text()
    section = text.partition(f"\n## {kind}\n")[2].partition("\n## ")[0]
    assert f"\nkind: {kind}\n" in section
    assert f"<!-- fields {kind} -->" in section


def test_no_kind_has_a_section_that_does_not_exist():
    sections = re.findall(r"\n## (\w+)\n", REFERENCE.read_text())
    assert set(sections) == set(KINDS)

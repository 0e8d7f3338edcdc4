"""The bytes of one object -> ``Document``: read, known by its place, validated.

``load`` calls it for every file that changed. Pure; it never opens a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import ValidationError

from reconciler.pasted import HINT, may_name_secret, pasted_fields, pasted_values
from reconciler.values import Document
from reconciler.wording import field_names, problems_of, show
from reconciler.written import Written, did_you_mean
from reconciler.yaml_reader import read_yaml
from schemas.errors import Problem, SpecError
from schemas.kinds import KINDS, parse
from schemas.objects import API_VERSION, DEFAULT_PROJECT, Ref

__all__ = ["read_object"]


def read_object(data: bytes, file: str, ref: Ref, *, partial: bool) -> Document:
    """Read the bytes of one object, which its place says is ``ref``.

    ``partial``: an overlay, which validates only once it is merged. Pure.

    Raises:
        SpecError: everything that is wrong with it.
    """
    if pasted := pasted_values(data, file):
        raise SpecError(pasted)
    content, places = read_yaml(data, file)
    document = Document(file=file, content=content, places=places)
    written = Written(base=document)
    if may_name_secret(data):
        pasted = [
            written.problem(path, "cannot keep a secret in git", HINT)
            for path in pasted_fields(content, field_names())
        ]
        if pasted:
            raise SpecError(pasted)
    problems = list(_envelope(written, ref))
    if partial or content.get("kind") != ref.kind:
        if problems:
            raise SpecError(problems)
        return document
    try:
        item = parse(content)
    except ValidationError as error:
        seen = {problem.field for problem in problems}
        problems += [
            problem
            for problem in problems_of(error, written, content)
            if not any(f"{field}.".startswith(f"{problem.field}.") for field in seen)
        ]
        raise SpecError(problems) from error
    if problems:
        raise SpecError(problems)
    return replace(document, item=item)


def _envelope(written: Written, ref: Ref) -> Iterator[Problem]:
    """What makes an object the one that its place says it is."""
    content = written.base.content
    metadata = content.get("metadata", {})
    if not isinstance(metadata, dict):
        message = f"cannot read {show(metadata)} as a mapping of fields"
        yield written.problem("metadata", message, f"write {{name: {ref.name}}}")
        metadata = {"name": ref.name, "project": ref.project}
    elif ref.project == DEFAULT_PROJECT:
        metadata = {"project": DEFAULT_PROJECT, **metadata}
    for path, found, wanted in (
        ("apiVersion", content.get("apiVersion"), API_VERSION),
        ("kind", content.get("kind"), ref.kind),
        ("metadata.name", metadata.get("name"), ref.name),
        ("metadata.project", metadata.get("project"), ref.project),
    ):
        if found == wanted:
            continue
        name = path.rpartition(".")[2]
        if found is None:
            message, hint = f"cannot leave out {name}", f"write {name}: {wanted}"
        elif path == "apiVersion":
            message, hint = f"cannot read version {show(found)}", f"write {wanted}"
        elif path == "kind" and str(found) not in KINDS:
            message = f"cannot read {show(found)}: no kind is called so"
            hint = did_you_mean(str(found), KINDS, otherwise=f"write {wanted}")
        else:
            message = f"cannot take {show(found)} from here: the place says {wanted}"
            hint = f"write {wanted}, or move the file"
        yield written.problem(path, message, hint)

"""pydantic's errors in our words: what was found, where, and the way out.

``load`` and ``overlay`` call it when an object does not validate. The message of
a model's own validator is used as it is. A value is shown only where no secret
belongs. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from reconciler.written import Written, did_you_mean
from reconciler.yaml_reader import child
from schemas.errors import Problem
from schemas.kinds import KINDS

__all__ = ["PATTERNS", "field_names", "field_paths", "problems_of", "show"]

_SHOWN = 80
# Nobody reads more of one file, and each costs a search for the nearest name.
_TOLD = 100
# Fields that say where a secret is; who errs there may have written the secret.
_SILENT = re.compile(r"(?i)(credentials|tls|hash|env|baseUrl|token|password|secret)\b")
# What a pattern means, for those a person meets.
PATTERNS = {
    r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$": "use at most 63 lower-case letters, "
    "digits and '-', with a letter or digit at both ends",
    r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$": "use at "
    "most 63 letters, digits, '-', '_' and '.', after a domain and '/' if need be",
    r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$": "use at most 63 letters, "
    "digits, '-', '_' and '.', with a letter or digit at both ends",
    r"^[0-9a-f]{16}$": "write the token that the refusal printed",
    r"^[0-9a-f]{40}$": "write the commit's full SHA, 40 hex digits",
    r"^[0-9a-f]{64}$": "write a SHA-256, 64 hex digits",
    r"^sha256:[0-9a-f]{64}$": "write sha256: and the key's hash; "
    "`bud keys create` prints it",
    r"^[0-9]+\.[0-9]+(\.[0-9]+)?$": 'write a version such as "1.33"',
    r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$": "write a network such as 10.0.0.0/16",
    r"^[A-Z][A-Z0-9_]*$": "write the name of an environment variable, such as HF_TOKEN",
    r"^[a-z0-9./-]+#[\w.-]+$": "write the path of an encrypted file, '#' and a key of "
    "it, such as keys.yaml#openai",
    r"^[\w.-]+/[\w.-]+$": "write owner/name",
    r"^s3://[a-z0-9.-]{3,63}/\S+$": "write s3://bucket/path",
    r"^https?://[^\s@]+$": "write a URL such as https://api.example.com/v1, without "
    "user or password",
    r"^https?://[^\s@]+[^\s@/]$": "write the forge's URL such as https://git.example.com, "
    "without credentials and a last slash",
    r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)+$": "write owner/name, as the forge has it",
    r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$": "write a machine's name or address",
    r"^[a-z_][a-z0-9_-]{0,31}$": "write a login name of at most 32 characters",
    r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+={0,2}$": "write the machine's public key, "
    "as ssh-keyscan prints it behind the name",
    r"^[A-Za-z0-9][\w./+-]*\.tgz$": "write the path of a packed chart, such as "
    "charts/nfd-0.18.2.tgz",
    r"^[A-Za-z0-9_/][A-Za-z0-9_:/.@=,+-]*$": "write the id as the cloud prints it: "
    "letters, digits and any of _:/.@=,+-",
    r"^v?[0-9][\w.+-]*$": "write a version such as 0.18.2",
    r"^oci://[^\s@]+$": "write oci://registry/path",
    r"^[a-z][a-z0-9-]*$": "write the flag in lower case without its dashes, such as "
    "max-model-len",
    r"^[\w][\w./:@-]{0,127}$": "use at most 128 letters, digits and any of _./:@-",
    r"^([01][0-9]|2[0-3]):[0-5][0-9]$": 'write a time of day such as "08:00"',
    r"^[A-Z][A-Za-z]*/[a-z0-9*?\[\]-]+(/[a-z0-9*?\[\]-]+)?$": "write Kind/name or "
    "Kind/project/name, with * and ? if need be",
}
_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of fields",
    "model_type": "a mapping of fields",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "the least is"),
    "greater_than": ("gt", "it must be more than"),
    "less_than_equal": ("le", "the most is"),
    "less_than": ("lt", "it must be less than"),
}


def problems_of(
    error: ValidationError, written: Written, content: Mapping[str, Any]
) -> Iterator[Problem]:
    """Yield a problem for every error, at the line that has to be mended."""
    details = error.errors(include_url=False)
    if len(details) > _TOLD:
        message = f"cannot use {len(details):,} of its fields: the first {_TOLD} follow"
        yield written.problem("", message)
    for detail in details[:_TOLD]:
        path, rest = _path(detail["loc"], content)
        kind = detail["type"]
        if kind == "too_short" and detail["input"]:
            continue  # pydantic counts the items that are right; the others are told
        if kind == "missing":
            name = str(detail["loc"][-1])
            parent = path.rpartition(".")[0]
            where = f"under {parent}" if parent else "at the left margin"
            yield written.problem(
                path, f"cannot leave out {name}", f"add {name} {where}"
            )
        elif kind == "extra_forbidden":
            yield _unknown_field(detail, path, written)
        elif rest and rest[0] != "[key]":
            yield written.problem(
                path,
                f"cannot use {_shown(detail, path, written)} here",
                "write one text, number, true or false",
            )
        else:
            message, hint = _message(detail, path, written)
            yield written.problem(path, message, hint, key=bool(rest))


def show(value: object) -> str:
    """A value as a person would write it, cut to one line."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@cache
def field_names() -> frozenset[str]:
    """Every field that some kind has, as it is written."""
    return frozenset(
        path.rpartition(".")[2] for kind in KINDS for path in field_paths(KINDS[kind])
    )


def _message(detail: ErrorDetails, path: str, written: Written) -> tuple[str, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    shown = _shown(detail, path, written)
    if kind == "value_error":
        return str(context["error"]), ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        near = did_you_mean(str(detail["input"]), choices)
        return f"cannot use {shown}: it is not {_either(choices)}", near
    if kind in _TYPES:
        return f"cannot read {shown} as {_TYPES[kind]}", _retype(detail, path, written)
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        hint = PATTERNS.get(pattern, f"it must match {pattern}")
        return f"cannot use {shown}", hint
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        reason = f"{words} {context[name]}"
    elif kind == "too_short":
        reason = f"it needs {context['min_length']} or more"
    else:
        reason = detail["msg"][:1].lower() + detail["msg"][1:]
    return f"cannot use {shown}: {reason}", ""


def _retype(detail: ErrorDetails, path: str, written: Written) -> str:
    kind, value = detail["type"], detail["input"]
    plain = written.as_written(path)
    if kind == "string_type" and plain is not None:
        return f'quote it: "{plain}"'
    if kind in ("int_type", "float_type") and re.fullmatch(r"-?\d+", str(value)):
        return "remove the quotes"
    if kind == "bool_type" and str(value) in ("true", "false"):
        return "remove the quotes"
    if kind in ("tuple_type", "list_type"):
        return "write each item on its own line behind '- ', or all of them in [ ]"
    if value is None:
        return "write its fields below it, or leave it out"
    return ""


def _unknown_field(detail: ErrorDetails, path: str, written: Written) -> Problem:
    kind, loc = str(written.base.content["kind"]), detail["loc"]
    name = str(loc[-1])
    siblings = _fields(_model_at(KINDS[kind], loc[:-1]))
    elsewhere = [
        p.rpartition(".")[0]
        for p in field_paths(KINDS[kind])
        if p.rpartition(".")[2] == name
    ]
    if elsewhere:
        hint = f"{name} belongs under {_either(sorted(elsewhere))}"
    else:
        hint = did_you_mean(
            name.replace("_", ""),
            siblings,
            otherwise=f"known here: {', '.join(siblings)}",
        )
    return written.problem(
        path, f"cannot use {show(name)}: {kind} has no such field here", hint, key=True
    )


def _shown(detail: ErrorDetails, path: str, written: Written) -> str:
    if detail["loc"][-1] == "[key]":
        return show(detail["loc"][-2])
    if _SILENT.search(path):
        return "what is written here"
    return written.as_written(path) or show(detail["input"])


def _path(
    loc: tuple[int | str, ...], content: Any
) -> tuple[str, tuple[int | str, ...]]:
    """The location as a field path, and what of it names no field: the
    member of a union that was tried, or ``[key]``."""
    path = ""
    for i, part in enumerate(loc):
        if isinstance(part, int) and isinstance(content, list):
            path, content = f"{path}[{part}]", content[part]
        elif isinstance(part, str) and isinstance(content, dict):
            path, content = child(path, part), content.get(part)
        else:
            return path, loc[i:]
    return path, ()


def _model_at(
    model: type[BaseModel] | None, loc: tuple[int | str, ...]
) -> type[BaseModel] | None:
    for part in loc:
        if isinstance(part, str):
            field = _fields(model).get(part)
            model = None if field is None else _model_in(field.annotation)
    return model


def _fields(model: type[BaseModel] | None) -> dict[str, FieldInfo]:
    if model is None:
        return {}
    return {f.alias or name: f for name, f in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


@cache
def field_paths(model: type[BaseModel], path: str = "") -> tuple[str, ...]:
    """The path of every field of a model, without the places in lists."""
    found: list[str] = []
    for name, field in _fields(model).items():
        inner = child(path, name)
        found.append(inner)
        if (below := _model_in(field.annotation)) is not None:
            found.extend(field_paths(below, inner))
    return tuple(found)


def _either(choices: list[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last

"""Find a secret that somebody pasted where a reference belongs.

The rule it guards: a plaintext secret appears in no error. A file that holds one
is reported for that alone, by place and never by value, until the secret is out
of it: no other message about the file can then carry it along. ``load`` calls
this before anything else looks at a file. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from reconciler.yaml_reader import child
from schemas.errors import Problem

__all__ = ["may_name_secret", "pasted_fields", "pasted_values"]

HINT = (
    "revoke it, for git keeps it in its history; keep the new one in an encrypted "
    "file under environments/<env>/secrets and name it in a credentials field"
)

# A key's published shape, or the frame that always surrounds one. The substring
# is looked for first: it is there in one file of a thousand. A shape begins only
# where no word goes on, so that no text makes the search quadratic.
_SHAPES = {
    b"sk-": rb"(?<![\w-])sk-(?:bud-[\w-]{20,}|[\w-]{0,40}?[A-Za-z0-9_]{16,})",
    b"AKIA": rb"(?<![\w-])AKIA[0-9A-Z]{16}\b",
    b"ASIA": rb"(?<![\w-])ASIA[0-9A-Z]{16}\b",
    b"gh": rb"(?<![\w-])gh[pousr]_\w{20,}",
    b"github_pat_": rb"(?<![\w-])github_pat_\w{20,}",
    b"glpat-": rb"(?<![\w-])glpat-[\w-]{16,}",
    b"hf_": rb"(?<![\w-])hf_[A-Za-z0-9]{20,}",
    b"xox": rb"(?<![\w-])xox[abprs]-[\w-]{10,}",
    b"AIza": rb"(?<![\w-])AIza[\w-]{30,}",
    b"eyJ": rb"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}",
    b"PRIVATE KEY": rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
    b"AGE-SECRET-KEY-": rb"(?<![\w-])AGE-SECRET-KEY-1\w{10,}",
    b"://": rb"://[^\s/:@]+:[^\s/@]+@",
}
# Of one shape in one file; finding the line of each is a pass over the file.
_TOLD = 20
_COMPILED = {mark: re.compile(shape) for mark, shape in _SHAPES.items()}
# Names whose last word says that the value is secret: HF_TOKEN, adminPassword.
_SECRET_NAME = re.compile(
    r"(?i:password|passwd|passphrase|token|secret|"
    r"(?:api|access|private|secret|auth|signing|encryption)[-_.]?key)$"
)
# ... unless another word says that it is a name (Helm's existingSecret) or a token
# of a vocabulary (--eos-token).
_HARMLESS = re.compile(r"(?i)^(existing|eos|bos|pad|unk|stop|mask|sep|image|.*pull)")
_CANDIDATE = re.compile(
    rb"(?i)(?:password|passwd|passphrase|token|secret|key)[\"']?\s*:"
)


def pasted_values(data: bytes, file: str) -> list[Problem]:
    """What looks like a key by its shape, comments included."""
    return [
        Problem(
            file=file,
            line=data.count(b"\n", 0, match.start()) + 1,
            column=match.start() - data.rfind(b"\n", 0, match.start()),
            message="cannot keep a secret in git: this has the shape of one",
            hint=HINT,
        )
        for mark, shape in _COMPILED.items()
        if mark in data
        for match in islice(shape.finditer(data), _TOLD)
    ]


def may_name_secret(data: bytes) -> bool:
    """False where no key of the file ends like the name of a secret."""
    return _CANDIDATE.search(data) is not None


def pasted_fields(
    content: Mapping[str, Any], known: frozenset[str], path: str = ""
) -> Iterator[str]:
    """Yield the paths whose name says secret and whose value is one.

    ``known`` are the field names of the schema: ``spec.credentials.secret`` says
    where a secret is.
    """
    for key, value in content.items():
        inner = child(path, key)
        if isinstance(value, dict):
            yield from pasted_fields(value, known, inner)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, dict):
                    yield from pasted_fields(item, known, f"{inner}[{i}]")
        elif (
            key not in known
            and value not in (None, "", True, False)
            and _SECRET_NAME.search(key)
            and not _HARMLESS.search(key)
        ):
            yield inner

"""Proof documents: one entry, or two checkpoints, provable without the log.

`bud log prove` writes them; anyone who holds the public key checks them, with
this module or with golang.org/x/mod/sumdb. Pure.
"""

from __future__ import annotations

import base64
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic import ValidationError as PydanticError

from reconciler.ledger import merkle
from reconciler.ledger.entry import Entry, parse
from reconciler.ledger.note import Checkpoint, Verifier, open_checkpoint
from schemas.errors import ChainBrokenError

__all__ = [
    "ConsistencyProof",
    "InclusionProof",
    "check_proof",
    "prove_consistency",
    "prove_inclusion",
    "read_proof",
]

Hash = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")
]
"""SHA-256 in base64, as checkpoints write it; 32 bytes leave two bits at zero."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InclusionProof(_Document):
    """Entry ``seq`` is in the log that ``checkpoint`` signed."""

    kind: Literal["bud.ledger/inclusion/v1"] = "bud.ledger/inclusion/v1"
    seq: Annotated[int, Field(ge=0)]
    entry: str
    """The canonical line."""
    hashes: tuple[Hash, ...]
    """RFC 6962 audit path, leaf to root."""
    checkpoint: str
    """The signed note."""


class ConsistencyProof(_Document):
    """The log of ``old`` is a prefix of the log of ``new``."""

    kind: Literal["bud.ledger/consistency/v1"] = "bud.ledger/consistency/v1"
    old: str
    new: str
    hashes: tuple[Hash, ...]


_documents: TypeAdapter[InclusionProof | ConsistencyProof] = TypeAdapter(
    Annotated[InclusionProof | ConsistencyProof, Field(discriminator="kind")]
)


def prove_inclusion(
    line: bytes, seq: int, checkpoint: Checkpoint, nodes: merkle.Nodes
) -> InclusionProof:
    path = merkle.inclusion_proof(seq, checkpoint.size, nodes)
    return InclusionProof(
        seq=seq,
        entry=line.decode(),
        hashes=_encode(path),
        checkpoint=checkpoint.note,
    )


def prove_consistency(
    old: Checkpoint, new: Checkpoint, nodes: merkle.Nodes
) -> ConsistencyProof:
    hashes = merkle.consistency_proof(old.size, new.size, nodes)
    return ConsistencyProof(old=old.note, new=new.note, hashes=_encode(hashes))


def read_proof(text: str | bytes) -> InclusionProof | ConsistencyProof:
    """Raises: ChainBrokenError: it is no proof document."""
    try:
        return _documents.validate_json(text)
    except PydanticError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ChainBrokenError(
            f"cannot read proof: {place}: {first['msg'].lower()}",
            seq=-1,
            expected="a proof document of the ledger",
        ) from error


def check_proof(
    proof: InclusionProof | ConsistencyProof, verifiers: Collection[Verifier]
) -> Entry | None:
    """Accept a proof; returns the entry it is about, if it is about one.

    Raises:
        ChainBrokenError: it proves nothing, or not with these keys.
    """
    if isinstance(proof, ConsistencyProof):
        _check_consistency(proof, verifiers)
        return None
    checkpoint = open_checkpoint(proof.checkpoint, verifiers)
    line = proof.entry.encode(errors="replace")
    try:
        entry = parse(line)
    except ValueError as error:
        raise _refused(f"its entry is {error}", seq=proof.seq) from error
    if entry.seq != proof.seq:
        raise _refused(f"its entry is {entry.seq}", seq=proof.seq)
    leaf, path = merkle.leaf_hash(line), _decode(proof.hashes)
    if not merkle.check_inclusion(
        leaf, proof.seq, checkpoint.size, path, checkpoint.root
    ):
        raise _refused("its hashes do not lead to the root", seq=proof.seq)
    return entry


def _check_consistency(
    proof: ConsistencyProof, verifiers: Collection[Verifier]
) -> None:
    old, new = (open_checkpoint(note, verifiers) for note in (proof.old, proof.new))
    if old.origin != new.origin or not merkle.check_consistency(
        old.size, new.size, _decode(proof.hashes), old.root, new.root
    ):
        raise _refused("its hashes do not join the two roots", seq=old.size)


def _refused(reason: str, *, seq: int) -> ChainBrokenError:
    return ChainBrokenError(f"cannot accept proof: {reason}", seq=seq)


def _encode(hashes: list[bytes]) -> tuple[str, ...]:
    return tuple(base64.b64encode(item).decode() for item in hashes)


def _decode(hashes: tuple[str, ...]) -> list[bytes]:
    return [base64.b64decode(item) for item in hashes]

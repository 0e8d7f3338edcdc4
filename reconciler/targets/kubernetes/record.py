"""The record of one unit inside its cluster: what we are about to own, and own.

Pure. The record is a ConfigMap next to the objects, the parent of an ApplySet
(KEP-3659). It is written before the first object and lists every object with the
fingerprint that the dry run promised; it shrinks only when an object is confirmed
gone. So a deletion needs nothing else (kro#1318), a crash between two writes leaves
nothing unlisted (kustomize-controller#1664), and drift is what no longer matches.
The bytes of the unit are kept in it too: they are what a rollback goes back to, and
the first layer of a diff. They hold no secret.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from reconciler.targets.kubernetes.manifests import (
    OWNER_LABEL,
    UNIT_ANNOTATION,
    Json,
    ObjectId,
    part_of,
)
from reconciler.values import Key
from renderers.kubernetes import SYSTEM, namespace_of
from schemas.errors import PermanentError
from schemas.objects import Ref

__all__ = [
    "RECORD_LABEL",
    "RELEASE",
    "UNIT",
    "Member",
    "Record",
    "read_record",
    "record_id",
    "unit_key",
]

RECORD_LABEL = "foundry.bud/record"
UNIT = "unit"
"""Its value on the record of objects that we apply ourselves."""
RELEASE = "release"
"""Its value on the record of a release that Helm installs for us."""
_SET_LABEL = "applyset.kubernetes.io/id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One object of a unit."""

    fingerprint: str = ""
    leaving: bool = False
    """No longer wanted, and not yet confirmed gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    ref: Ref
    owner: str
    digest: str
    """Of the unit that these objects are."""
    content: bytes = field(repr=False)
    members: Mapping[ObjectId, Member]

    @property
    def where(self) -> ObjectId:
        return record_id(self.ref)

    def kept(self, gone: Iterable[ObjectId]) -> Record:
        """The record without what is confirmed gone."""
        left = set(gone)
        return Record(
            ref=self.ref,
            owner=self.owner,
            digest=self.digest,
            content=self.content,
            members={w: m for w, m in self.members.items() if w not in left},
        )

    def manifest(self) -> Json:
        where = self.where
        kinds = sorted({_group_kind(member) for member in self.members})
        return {
            "apiVersion": where.api_version,
            "kind": where.kind,
            "metadata": {
                "name": where.name,
                "namespace": where.namespace,
                "labels": {
                    OWNER_LABEL: self.owner,
                    RECORD_LABEL: RELEASE if self.ref.kind == "Addon" else UNIT,
                    _SET_LABEL: part_of(where),
                },
                "annotations": {
                    UNIT_ANNOTATION: str(self.ref),
                    "applyset.kubernetes.io/tooling": "bud-foundry/v1",
                    "applyset.kubernetes.io/contains-group-kinds": ",".join(kinds),
                },
            },
            "data": {
                "digest": self.digest,
                "content": self.content.decode(),
                "members": orjson.dumps(
                    [
                        {
                            "apiVersion": which.api_version,
                            "kind": which.kind,
                            "namespace": which.namespace,
                            "name": which.name,
                            "fingerprint": member.fingerprint,
                            "leaving": member.leaving,
                        }
                        for which, member in sorted(self.members.items())
                    ]
                ).decode(),
            },
        }


def record_id(ref: Ref) -> ObjectId:
    """Say where the record of an object of ours is."""
    return ObjectId(
        "v1",
        "ConfigMap",
        SYSTEM if ref.kind == "Addon" else namespace_of(ref.project),
        f"foundry.{ref.kind.lower()}.{ref.name}",
    )


def unit_key(live: Json, target: str) -> Key:
    """Say of which unit a live object is a part.

    Raises:
        PermanentError: its annotation is missing or was changed.
    """
    metadata = live["metadata"]
    text = (metadata.get("annotations") or {}).get(UNIT_ANNOTATION, "")
    try:
        return Key(target, Ref.parse(text))
    except ValueError as error:
        raise PermanentError(
            f"cannot tell what {live['kind']} {metadata['name']} belongs to: {text!r}"
        ) from error


def read_record(live: Json) -> Record:
    """Read a record back.

    Raises:
        PermanentError: it is not as we wrote it. Its objects are then unknown.
    """
    metadata = live["metadata"]
    try:
        data = live["data"]
        return Record(
            ref=Ref.parse(metadata["annotations"][UNIT_ANNOTATION]),
            owner=metadata["labels"][OWNER_LABEL],
            digest=data["digest"],
            content=data["content"].encode(),
            members={
                ObjectId(m["apiVersion"], m["kind"], m["namespace"], m["name"]): Member(
                    fingerprint=m["fingerprint"], leaving=m["leaving"]
                )
                for m in orjson.loads(data["members"])
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentError(
            f"cannot read record {metadata['namespace']}/{metadata['name']}: {error}",
            hint="somebody changed it: restore it from the ledger, or delete it and "
            "let the objects be adopted",
        ) from error


def _group_kind(which: ObjectId) -> str:
    group = which.api_version.rpartition("/")[0]
    return f"{which.kind}.{group}" if group else which.kind

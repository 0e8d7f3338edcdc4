"""Objects as values: which one, in which order, and with our marks on them.

Pure. The target takes what Helm rendered through ``mark`` before anything is sent.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.values import Key

__all__ = [
    "FIELD_MANAGER",
    "OWNER_LABEL",
    "PART_OF_LABEL",
    "SCALERS",
    "UNIT_ANNOTATION",
    "Json",
    "ObjectId",
    "identify",
    "mark",
    "part_of",
    "waves",
]

Json = dict[str, Any]
"""An object as the API server writes it."""

FIELD_MANAGER = "bud-foundry"
OWNER_LABEL = "foundry.bud/owner"
"""Which environment's daemon wrote it: what ``observe`` lists."""
PART_OF_LABEL = "applyset.kubernetes.io/part-of"
"""Which record holds it: the label of the ApplySet specification (KEP-3659)."""
UNIT_ANNOTATION = "foundry.bud/unit"
"""Of which object of ours it is a part, for whoever reads the cluster."""

SCALERS = frozenset({"HorizontalPodAutoscaler", "ScaledObject"})
"""Kinds that say how many replicas another object has."""

# What must exist before what. One not named here is an ordinary object.
_WAVES = (
    ("Namespace", "CustomResourceDefinition"),
    ("ServiceAccount", "Role", "ClusterRole", "Secret", "ConfigMap", "ExternalSecret"),
    ("RoleBinding", "ClusterRoleBinding", "PersistentVolumeClaim", "NetworkPolicy"),
    ("Service",),
    ("Job", "Deployment", "StatefulSet", "DaemonSet", "LeaderWorkerSet"),
    ("PodDisruptionBudget", "HorizontalPodAutoscaler", "ScaledObject"),
    ("Ingress", "HTTPRoute", "ServiceMonitor"),
)
_ORDINARY = 4
_WAVE_OF = {kind: wave for wave, kinds in enumerate(_WAVES) for kind in kinds}


@dataclass(frozen=True, slots=True, order=True)
class ObjectId:
    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {place}{self.name}"


def identify(manifest: Mapping[str, Any]) -> ObjectId:
    metadata = manifest["metadata"]
    return ObjectId(
        manifest["apiVersion"],
        manifest["kind"],
        metadata.get("namespace", ""),
        metadata["name"],
    )


def part_of(record: ObjectId) -> str:
    """Compute the ApplySet identifier of a record, by the specification's formula."""
    group = record.api_version.rpartition("/")[0]
    text = f"{record.name}.{record.namespace}.{record.kind}.{group}"
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"applyset-{digest.decode().rstrip('=')}-v1"


def mark(manifest: Mapping[str, Any], *, key: Key, owner: str, set_id: str) -> Json:
    """Copy an object with the marks by which it is found again."""
    metadata = manifest["metadata"]
    marks = {OWNER_LABEL: owner, PART_OF_LABEL: set_id}
    said = {UNIT_ANNOTATION: str(key.ref)}
    return {
        **manifest,
        "metadata": {
            **metadata,
            "labels": {**metadata.get("labels", {}), **marks},
            "annotations": {**metadata.get("annotations", {}), **said},
        },
    }


def waves(objects: Iterable[ObjectId]) -> list[list[ObjectId]]:
    """Sort objects into groups, each of which may be written at once.

    Deleting takes them the other way round.
    """
    sorted_in: dict[int, list[ObjectId]] = {}
    for which in sorted(objects):
        sorted_in.setdefault(_WAVE_OF.get(which.kind, _ORDINARY), []).append(which)
    return [sorted_in[wave] for wave in sorted(sorted_in)]

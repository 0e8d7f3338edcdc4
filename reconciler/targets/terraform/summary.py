"""What a saved plan would do, and whether it may (pure).

Made from ``terraform show -json``. A summary names resources, actions and
attributes, never values: a value can be a secret, and a summary is printed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

from reconciler.values import Preview
from schemas.errors import PermanentError

__all__ = [
    "ResourceChange",
    "Summary",
    "refuse_code",
    "refuse_providers",
    "summarise",
    "summarise_log",
]

Json = Mapping[str, Any]

# Providers that a module may name. `external` and `http` are not among them.
PROVIDERS = frozenset(
    {
        "registry.terraform.io/hashicorp/aws",
        "registry.terraform.io/hashicorp/azurerm",
        "terraform.io/builtin/terraform",
    }
)

# Losing one of these loses the cluster, or the only key to its disks.
_HEARTS = frozenset(
    {
        "aws_eks_cluster",
        "aws_kms_key",
        "aws_vpc",
        "azurerm_kubernetes_cluster",
        "azurerm_resource_group",
        "azurerm_virtual_network",
    }
)


# Programs, and other modules. Rather too much than too little: the first word is
# refused in a comment too, and comments may stand between the parts of the second.
_CODE = re.compile(
    r'\b(provisioner)\b|\b(module)\b(?:\s|/\*.*?\*/)*(?:"|[\w-]+\s*\{)', re.DOTALL
)

# What those who use a cluster notice of a change to one of its parts.
_POOL = {
    "update": "its nodes are drained and replaced one at a time",
    "replace": "new nodes come first, then the old ones are drained",
    "delete": "its nodes are drained and go; what runs there needs room elsewhere",
}
_CONTROL_PLANE = {
    "update": "the API answers throughout, and never goes back to the version before",
    "replace": "the cluster and all that runs on it are gone, and another is made",
    "delete": "the cluster and all that runs on it are gone",
}
_NOTICED = {
    "aws_eks_cluster": _CONTROL_PLANE,
    "aws_eks_node_group": _POOL,
    "azurerm_kubernetes_cluster": _CONTROL_PLANE,
    "azurerm_kubernetes_cluster_node_pool": _POOL,
}
# An update moves nodes only when one of these does; a size or a label does not.
_VERSIONS = frozenset(
    {
        "kubernetes_version",
        "launch_template",
        "orchestrator_version",
        "release_version",
        "version",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ResourceChange:
    address: str
    action: str
    """create, update, delete, replace or adopt."""
    kind: str = ""
    attributes: tuple[str, ...] = ()
    """Top-level attributes that change, without their values; of a replacement those
    that force it."""
    heart: bool = False
    """Whether the cluster does not survive losing it."""

    def __str__(self) -> str:
        what = f" ({', '.join(self.attributes)})" if self.attributes else ""
        return f"{self.action} {self.address}{what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    changes: tuple[ResourceChange, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(change.action for change in self.changes)

    @property
    def digest(self) -> str:
        """The same changes, the same digest: what a reviewer approves."""
        return sha256("\n".join(map(str, self.changes)).encode()).hexdigest()

    @property
    def fatal(self) -> tuple[ResourceChange, ...]:
        """Changes that the cluster would not survive."""
        lost = {"delete", "replace"}
        return tuple(c for c in self.changes if c.heart and c.action in lost)

    @property
    def preview(self) -> Preview:
        return Preview(
            summary=str(self),
            changes=tuple(str(change) for change in self.changes),
            disruption=tuple(self._disruption()),
        )

    def _disruption(self) -> Iterator[str]:
        for change in self.changes:
            noticed = _NOTICED.get(change.kind, {})
            if change.action in {"adopt", "update"} and not _VERSIONS & {
                *change.attributes
            }:
                continue
            action = "update" if change.action == "adopt" else change.action
            if action in noticed:
                yield f"{change.address}: {noticed[action]}"

    def __str__(self) -> str:
        if not self.changes:
            return "no changes"
        return ", ".join(
            f"{n} to {action}" for action, n in sorted(self.counts.items())
        )


def summarise(plan: bytes) -> Summary:
    """The changes of a saved plan, by address."""
    changes = orjson.loads(plan).get("resource_changes", ())
    return Summary(changes=tuple(sorted(_changes(changes))))


def _changes(resources: list[Json]) -> Iterator[ResourceChange]:
    for resource in resources:
        change = resource["change"]
        actions = set(change["actions"])
        if resource["mode"] != "managed" or actions <= {"read"}:
            continue
        action = "replace" if {"create", "delete"} <= actions else actions.pop()
        if action in {"no-op", "update"} and "importing" in change:
            action = "adopt"  # as it is, or with the attributes that are named
        if action != "no-op":
            yield ResourceChange(
                address=resource["address"],
                action=action,
                kind=resource["type"],
                attributes=tuple(sorted(_moved(action, change))),
                heart=resource["type"] in _HEARTS,
            )


def _moved(action: str, change: Json) -> Iterator[str]:
    if action not in {"adopt", "replace", "update"}:
        return
    if forced := {str(path[0]) for path in change.get("replace_paths", ())}:
        yield from forced
        return
    before, after = change.get("before") or {}, change.get("after") or {}
    unknown = change.get("after_unknown") or {}
    for name in {*before, *after, *unknown}:
        if before.get(name) != after.get(name) or _any(unknown.get(name)):
            yield name


def _any(unknown: object) -> bool:
    """Whether anything in it is to be told later; what is known is False in it."""
    if isinstance(unknown, dict):
        return any(map(_any, unknown.values()))
    return any(map(_any, unknown)) if isinstance(unknown, list) else bool(unknown)


def summarise_log(log: bytes) -> Summary | None:
    """The changes that planning itself told, by address.

    None where something changes in place: which attributes, the plan has to be asked,
    and that takes two thirds of the time of planning it.
    """
    said = [orjson.loads(line) for line in log.splitlines()]
    planned = (one["change"] for one in said if one.get("type") == "planned_change")
    changes = [change for change in planned if change["action"] != "read"]
    if any(
        c["action"] not in {"create", "delete"} or "importing" in c for c in changes
    ):
        return None
    found = [
        ResourceChange(
            address=change["resource"]["addr"],
            action=change["action"],
            kind=change["resource"]["resource_type"],
            heart=change["resource"]["resource_type"] in _HEARTS,
        )
        for change in changes
    ]
    return Summary(changes=tuple(sorted(found)))


def refuse_providers(names: Collection[str]) -> None:
    """Refuse providers that are not listed, before a plan runs them.

    Raises:
        PermanentError: there is one.
    """
    for name in sorted({*names} - PROVIDERS):
        raise _refused(f"provider {name}")


def refuse_code(files: Mapping[str, bytes]) -> None:
    """Refuse a root that runs programs or fetches code, before Terraform reads it.

    Our modules hold none; this is the second wall behind their digest, the mirror
    and the lock file.

    Raises:
        PermanentError: it would run something that nobody allowed.
    """
    for name, content in sorted(files.items()):
        if (
            name.endswith((".tf.json", ".tofu", ".tofu.json"))
            and name != "main.tf.json"
        ):
            raise _refused(name)
        if name.endswith(".tf") and (found := _CODE.search(content.decode())):
            raise _refused(f"{found[1] or found[2]} of {name}")


def _refused(what: str) -> PermanentError:
    return PermanentError(
        f"cannot run Terraform plan: {what} is not allowed",
        hint="modules use the listed providers, no provisioners and no other modules",
    )

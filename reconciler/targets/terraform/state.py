"""A Terraform state as values (pure).

The target reads states with ``state pull`` and hands the bytes here. A state can
hold secrets, so nothing but what is named below ever leaves this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson

from renderers.terraform import INTENT, UNIT
from schemas.errors import TemporaryError

__all__ = ["State", "read_state"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    lineage: str
    serial: int
    addresses: frozenset[str]
    """Instances that exist, by address; data sources not counted."""
    applied: bytes
    """The unit that was applied whole; empty where none was."""
    intended: bytes
    """The unit that was last begun."""
    outputs: Mapping[str, Any] = field(repr=False)
    """What the module says of the cluster."""

    @property
    def resources(self) -> int:
        return len(self.addresses)

    @property
    def exists(self) -> bool:
        """Whether anything stands behind it: an emptied state is nothing."""
        return self.resources > 0 or self.applied != b""

    @property
    def whole(self) -> bool:
        """Whether all of the unit that was last begun is there."""
        return bool(self.applied) and self.applied == self.intended

    @property
    def digest(self) -> str:
        """Of the unit that lives there; of no unit where it was applied in part."""
        if self.whole:
            return sha256(self.applied).hexdigest()
        return sha256(f"part {self.lineage} {self.serial}".encode()).hexdigest()


def read_state(content: bytes) -> State | None:
    """Read what ``state pull`` printed; None where there is no state yet.

    Raises:
        TemporaryError: these bytes are no state. Never taken for an absent one.
    """
    if not content.strip():
        return None
    try:
        data = orjson.loads(content)
        outputs = {name: out["value"] for name, out in data["outputs"].items()}
        managed = [r for r in data["resources"] if r["mode"] == "managed"]
        marks = [r for r in managed if r["name"] == UNIT and "module" not in r]
        return State(
            lineage=data["lineage"],
            serial=data["serial"],
            addresses=frozenset(
                _address(r, i)
                for r in managed
                if r not in marks
                for i in r["instances"]
            ),
            applied=_mark(marks),
            intended=str(outputs.get(INTENT, "")).encode(),
            outputs=outputs.get("cluster") or {},
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise TemporaryError(
            "cannot read Terraform state: what the backend holds is no state",
            hint="restore the last good version of it from the backend",
        ) from error


def _address(resource: Any, instance: Any) -> str:
    """As plans and import blocks write it: ``module.cluster.aws_subnet.a["zone"]``."""
    module = f"{resource['module']}." if "module" in resource else ""
    key = instance.get("index_key")
    index = "" if key is None else f"[{orjson.dumps(key).decode()}]"
    return f"{module}{resource['type']}.{resource['name']}{index}"


def _mark(marks: list[Any]) -> bytes:
    """What the mark that is made last holds, where it was made."""
    for mark in marks:
        for instance in mark["instances"]:
            return str(instance["attributes"]["output"]["value"]).encode()
    return b""

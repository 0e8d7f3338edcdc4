"""States as what the engine sees of a cluster (pure).

The target calls these; which words a state earns is decided here and nowhere else.
"""

from __future__ import annotations

import re
from hashlib import sha256

import orjson

from reconciler.targets.base import Progress
from reconciler.targets.terraform.state import State
from reconciler.values import Change, Health, Key, Live, Presence
from schemas.errors import FoundryError
from schemas.objects import Ref

__all__ = ["live_of", "pin_of", "ref_of", "tell", "unknown", "workspace_of"]

_WORKSPACE = re.compile(r"([a-z0-9-]+)\.([a-z0-9-]+)")


def workspace_of(key: Key) -> str:
    """``project.name``: no name holds a dot, so no two clusters share a state."""
    return f"{key.ref.project}.{key.ref.name}"


def ref_of(workspace: str) -> Ref | None:
    """Whose state it is; None of one that is not ours."""
    found = _WORKSPACE.fullmatch(workspace)
    return Ref("Cluster", found[1], found[2]) if found else None


def pin_of(change: Change, live: Live) -> str:
    """What a saved plan was decided on."""
    unit = change.unit.digest if change.unit else "destroy"
    return f"{unit} {live.uid} {live.version}"


def live_of(key: Key, state: State | None, drift: tuple[str, ...]) -> Live:
    if state is None or not state.exists:
        return Live(key=key, presence=Presence.ABSENT)
    strayed = sha256("\n".join(drift).encode()).hexdigest()[:12] if drift else ""
    if not state.whole:
        health = Health.DEGRADED
        detail = f"half made: {state.resources} resources; applying goes on from there"
    elif drift:
        health, detail = Health.DEGRADED, f"changed by hand: {', '.join(drift[:5])}"
    else:
        health, detail = Health.SERVABLE, ""
    digest = state.digest
    return Live(
        key=key,
        presence=Presence.PRESENT,
        digest=sha256(f"{digest} {strayed}".encode()).hexdigest() if drift else digest,
        uid=state.lineage,
        version=f"{state.serial}-{strayed}" if drift else str(state.serial),
        health=health,
        detail=detail,
        says=state.outputs,
    )


def unknown(key: Key, error: FoundryError) -> Live:
    return Live(key=key, presence=Presence.UNKNOWN, detail=error.args[0])


def tell(key: Key, line: str, progress: Progress) -> None:
    """Pass on what Terraform says of a resource: which, what, for how long."""
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        return
    if str(said.get("type", "")).startswith("apply_"):
        progress(key, said["@message"])

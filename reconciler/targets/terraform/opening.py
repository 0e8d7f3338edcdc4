"""A terraform target for this machine, from its environment (I/O).

Whoever opens a foundry calls it. ``BUD_TERRAFORM`` names the binary,
``BUD_TERRAFORM_MIRROR`` the folder of providers, ``BUD_TERRAFORM_BACKEND`` the
backend as JSON; without the last, states are files beside the foundry's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import which

from reconciler.targets.terraform.backend import Backend
from reconciler.targets.terraform.command import Command
from reconciler.targets.terraform.credentials import ambient
from reconciler.targets.terraform.target import TerraformTarget
from schemas.errors import PermanentError
from schemas.objects import Credential

__all__ = ["open_terraform"]

# Backends that lock, or whose files do: two writers at once lose a cluster.
_LOCKING = frozenset({"azurerm", "gcs", "local", "pg", "s3"})

# Which argument says where a backend keeps its states, and ours within it.
_PLACE = {
    "azurerm": ("key", "{0}/{1}"),
    "gcs": ("prefix", "{0}/{1}"),
    "pg": ("schema_name", "{0}_{1}"),
    "s3": ("workspace_key_prefix", "{0}/{1}"),
}


def open_terraform(
    root: Path,
    environment: Mapping[str, str],
    credentials: Callable[[Credential], str],
    *,
    owner: str,
) -> TerraformTarget:
    """``root`` is the folder of the foundry's state; nothing is run yet.

    ``owner`` is the environment: two of them at one backend never share a state.

    Raises:
        PermanentError: the backend is not JSON, or does not lock.
    """
    binary = environment.get("BUD_TERRAFORM") or which("terraform") or which("tofu")
    mirror = environment.get("BUD_TERRAFORM_MIRROR")
    folder = (root / "terraform").resolve()
    command = Command(
        binary=binary or "terraform",
        home=folder / "home",
        mirror=Path(mirror) if mirror else None,
        environment=ambient(environment, own=False),
    )
    backend = Backend(
        command=command,
        folder=folder / "backend",
        settings=_settings(environment.get("BUD_TERRAFORM_BACKEND"), folder, owner),
        secrets=ambient(environment, own=True),
    )
    return TerraformTarget(backend=backend, credentials=credentials)


def _settings(
    text: str | None, folder: Path, owner: str
) -> Mapping[str, Mapping[str, object]]:
    if not text:
        return {"local": {"workspace_dir": str(folder / "states")}}
    try:
        found = json.loads(text)
        ((kind, settings),) = found.items()
    except (ValueError, AttributeError) as error:
        raise _refused("it is not one JSON object with one backend") from error
    if kind not in _LOCKING or not isinstance(settings, dict):
        raise _refused(f"{kind!r} is not one of {', '.join(sorted(_LOCKING))}")
    if kind == "s3" and not (
        settings.get("use_lockfile") or "dynamodb_table" in settings
    ):
        raise _refused("s3 without use_lockfile does not lock")
    if kind in _PLACE:
        name, form = _PLACE[kind]
        settings[name] = form.format(settings.get(name, "bud"), owner)
    return {kind: settings}


def _refused(found: str) -> PermanentError:
    return PermanentError(
        f"cannot use BUD_TERRAFORM_BACKEND: {found}",
        hint='write it as {"s3": {"bucket": "...", "key": "...", "use_lockfile": true}}',
    )

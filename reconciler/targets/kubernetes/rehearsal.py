"""Dry runs: what the API server would make of each object. (I/O: writes nothing)

The target rehearses a whole unit before the first write of it, creations included,
with admission and validation of the real server. A rehearsal decides per object
whether our fields are taken back by force, and learns the fingerprint that the
record promises.

Who holds a field that we want, decides: an autoscaler keeps it (it is left out of
what we send); another declarative tool is named and nothing is written; a hand that
edited what is ours is overruled. An object that somebody else made is left alone, unless
whoever has it hands it over with an annotation: then its differing fields become ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.manifests import (
    FIELD_MANAGER,
    Json,
    ObjectId,
    identify,
)
from reconciler.targets.kubernetes.ownership import (
    applied_fields,
    fingerprint,
    promised,
)
from reconciler.targets.kubernetes.transport import ApiRefusal
from schemas.errors import PermanentError, TemporaryError

__all__ = ["ADOPT", "Rehearsal", "rehearse"]

# Managers that scale for a living. Another who writes to the scale subresource, such
# as `kubectl scale`, is a hand.
_AUTOSCALERS = frozenset(
    {"kube-controller-manager", "horizontal-pod-autoscaler", "keda", "keda-operator"}
)
_CONFLICT = re.compile(
    r'(?P<field>\S*): conflict with "(?P<manager>[^"]+)"'
    r'(?: with subresource "(?P<subresource>[^"]+)")?'
)
_SPARE_NAMESPACE = "default"
ADOPT = "foundry.bud/adopt"
"""Annotation of an object that is handed over; its value names the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """One object, as it is to be sent; ``unchanged`` when sending it would do nothing."""

    manifest: Json
    force: bool
    fingerprint: str
    unchanged: bool
    predicted: Json
    """What the API server says it would become."""
    handover: Json | None = None
    """To be applied first under another manager: see ``_handover``."""
    adopted: str = ""
    """Who made it, where it is taken over."""


async def rehearse(
    client: Client,
    discovery: Discovery,
    manifest: Json,
    live: Json | None,
    *,
    namespace_exists: bool,
    owner: str,
    unscaled: bool = False,
) -> Rehearsal:
    """Dry-run one object of ``owner`` on what lives there as ours.

    ``unscaled`` says that our autoscaler goes: what it wrote is ours to say again.

    Raises:
        PermanentError: the API server refuses it, or somebody else's lives there.
        TemporaryError: nobody can say.
    """
    which = identify(manifest)
    sent = manifest
    if not namespace_exists and which.namespace:
        # The namespace is made with the first write; until then, admission of
        # another one has to do.
        metadata = {**manifest["metadata"], "namespace": _SPARE_NAMESPACE}
        sent = {**manifest, "metadata": metadata}
    path = await discovery.path(identify(sent))
    handover = _handover(manifest, live)
    force, adopted = False, ""
    while True:
        try:
            result = await client.apply(path, sent, force=force, dry_run=True)
            break
        except ApiRefusal as refusal:
            if refusal.status != HTTPStatus.CONFLICT or force:
                raise _refused(which, refusal) from refusal
            if live is None and namespace_exists:
                adopted = await _offered(client, path, owner)
                if not adopted:
                    raise _foreign(which, refusal, owner) from refusal
            kept = () if adopted else _settle(which, refusal, unscaled=unscaled)
            sent = _without(sent, kept)
            manifest = _without(manifest, kept)
            force = True
    if live is None and namespace_exists and result["metadata"].get("resourceVersion"):
        adopted = adopted or await _offered(client, path, owner)
        if not adopted:
            raise _occupied(which, result, owner)
    return Rehearsal(
        manifest=manifest,
        force=force,
        fingerprint=promised(result),
        predicted=result,
        # The values of a Secret are in no fingerprint: it is always sent.
        unchanged=live is not None
        and which.kind != "Secret"
        and fingerprint(live) == promised(result),
        handover=handover,
        adopted=adopted,
    )


async def _offered(client: Client, path: str, owner: str) -> str:
    """Who made an object that is handed over to ``owner``; empty where it is not."""
    live = await client.get(path)
    annotations = (live or {}).get("metadata", {}).get("annotations") or {}
    if live is None or annotations.get(ADOPT) != owner:
        return ""
    return _makers(live) or "somebody else"


def _makers(live: Json) -> str:
    entries = live["metadata"].get("managedFields", ())
    return ", ".join(sorted({e.get("manager", "?") for e in entries} - {FIELD_MANAGER}))


def _settle(
    which: ObjectId, refusal: ApiRefusal, *, unscaled: bool
) -> tuple[tuple[str, ...], ...]:
    """Say which conflicting fields are left to others; the rest is taken by force."""
    kept: list[tuple[str, ...]] = []
    for cause in refusal.causes:
        match = _CONFLICT.search(cause)
        if match is None:
            raise _refused(which, refusal)
        scaled = match["subresource"] == "scale" and match["manager"] in _AUTOSCALERS
        if scaled and not unscaled:
            kept.append(tuple(match["field"].strip(".").split(".")))
    for entry in refusal.body.get("details", {}).get("causes", ()):
        match = _CONFLICT.search(
            f"{entry.get('field', '')}: {entry.get('message', '')}"
        )
        if match is not None and " using " not in entry.get("message", ""):
            # An Update names the version it used; an Apply does not. Two tools that
            # both declare a field would undo each other for ever.
            raise PermanentError(
                f"cannot apply {which}: {match['manager']} declares {match['field']}",
                hint="two tools declare one field: take it out of one of them",
            )
    return tuple(kept)


def _without(manifest: Json, paths: tuple[tuple[str, ...], ...]) -> Json:
    for path in paths:
        manifest = _drop(manifest, path)
    return manifest


def _drop(value: Json, path: tuple[str, ...]) -> Json:
    head, *rest = path
    if head not in value:
        return value
    if not rest:
        return {name: inner for name, inner in value.items() if name != head}
    return {**value, head: _drop(value[head], tuple(rest))}


def _handover(manifest: Json, live: Json | None) -> Json | None:
    """Keep the replicas that live when they stop being ours to say.

    A field that its only manager no longer sends is removed, and a workload without
    ``replicas`` has one: handing a fleet to its autoscaler would first kill it.
    """
    if live is None or "replicas" in manifest.get("spec", {}):
        return None
    ours: Mapping[str, object] = (applied_fields(live) or {}).get("f:spec", {})
    if "f:replicas" not in ours:
        return None
    which = identify(manifest)
    return {
        "apiVersion": which.api_version,
        "kind": which.kind,
        "metadata": {"name": which.name, "namespace": which.namespace},
        "spec": {"replicas": live["spec"]["replicas"]},
    }


def _occupied(which: ObjectId, found: Json, owner: str) -> TemporaryError:
    return TemporaryError(
        f"cannot create {which}: one already lives there, made by "
        f"{_makers(found) or 'somebody else'}",
        hint=_WAYS_OUT.format(owner=owner),
    )


def _foreign(which: ObjectId, refusal: ApiRefusal, owner: str) -> TemporaryError:
    return TemporaryError(
        f"cannot create {which}: one already lives there ({'; '.join(refusal.causes[:3])})",
        hint=_WAYS_OUT.format(owner=owner),
    )


_WAYS_OUT = (
    f"delete it, give the endpoint another name, or hand it over: annotate it "
    f"with {ADOPT}={{owner}}"
)


def _refused(which: ObjectId, refusal: ApiRefusal) -> PermanentError:
    causes = "; ".join(refusal.causes[:3])
    message = str(refusal).partition("\n")[0]
    return PermanentError(
        f"cannot apply {which}: {causes or message.partition(': ')[2] or message}"
    )

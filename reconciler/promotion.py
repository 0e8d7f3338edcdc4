"""Promotion: what served in one environment, for another to declare (pure).

`promote` asks it what of an endpoint travels, whether that was proved where it comes
from, and which difference makes another environment declare the same; reviews ask
whether what a branch declares is still what was proved. Where it runs, how large it is
and what it has to achieve stay each environment's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from reconciler.ledger import Entry
from reconciler.ordering import seen
from reconciler.store.values import Owned, Ownership
from reconciler.values import Health, Key, Live, Presence, Unit
from renderers.local import weights_of
from schemas.catalog import catalog
from schemas.endpoint import Endpoint
from schemas.errors import PermanentError
from schemas.model import Model, ModelSource
from schemas.objects import Ref
from schemas.resolution import Resolution

__all__ = [
    "Served",
    "claim_of",
    "compose",
    "digest_of",
    "marks_of",
    "model_difference",
    "proof_of",
    "served_difference",
]

Data = dict[str, Any]

_MARK = "promoted.foundry.bud/"
_SERVES = (Health.SERVABLE, Health.MEETS_SLO)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An endpoint with its model, as one environment declares them."""

    endpoint: Endpoint
    model: Model
    resolution: Resolution

    @property
    def ref(self) -> Ref:
        return self.endpoint.ref

    @property
    def version(self) -> str | None:
        """Of the engine's image; what is started as a process is what is installed."""
        engine = self.endpoint.spec.engine
        known = catalog().engines.find(engine.name)
        default = known.versions[0] if known.image is not None else None
        return engine.version or default


def digest_of(served: Served) -> str:
    """Names everything that travels: weights, image, flags, precision, adapters."""
    spec, model = served.endpoint.spec, served.model.spec
    travels = {
        "model": spec.model,
        "weights": weights_of(model.source, model.format).id,
        "format": model.format,
        "architecture": model.architecture_id,
        "remoteCode": model.trust_remote_code,
        "precision": served.resolution.precision,
        "engine": spec.engine.model_dump(mode="json") | {"version": served.version},
        "adapters": [
            [a.name, a.rank, weights_of(a.source, "safetensors").id]
            for a in spec.adapters
        ],
        "parsers": spec.parsers.model_dump(mode="json"),
    }
    return hashlib.sha256(
        orjson.dumps(travels, option=orjson.OPT_SORT_KEYS)
    ).hexdigest()


def proof_of(
    ref: Ref,
    units: Mapping[Key, Unit],
    *,
    owned: Mapping[Key, Owned],
    observed: Mapping[Key, Live],
    success: Callable[[Collection[str]], Entry | None],
) -> Entry:
    """The ledger entry by which what is declared became servable, and still is.

    ``units`` are those of the endpoint and its model; ``success`` finds the entry by
    which one of some digests came to live.

    Raises:
        PermanentError: it never was, or something moved since.
    """
    for key, unit in sorted(units.items()):
        mine, live = owned.get(key), seen(observed, key)
        if mine is None or mine.state is not Ownership.LIVE:
            raise _refused(ref, f"{key} was never applied there")
        if mine.unit.digest != unit.digest:
            raise _refused(
                ref,
                f"{key} is declared as {unit.digest[:12]} and applied as "
                f"{mine.unit.digest[:12]}",
            )
        if live.presence is not Presence.PRESENT:
            raise _refused(ref, f"{key} is {live.presence}: {live.detail}")
        if live.digest != unit.digest:
            raise _refused(ref, f"{key} moved since it was applied: {live.detail}")
        if key.ref == ref and live.health not in _SERVES:
            raise _refused(ref, f"{key} is {live.health}, not servable: {live.detail}")
    wanted = {unit.digest for key, unit in units.items() if key.ref == ref}
    if (entry := success(wanted)) is None:
        raise _refused(ref, "the ledger has no entry of its success")
    return entry


def _refused(ref: Ref, found: str) -> PermanentError:
    return PermanentError(
        f"cannot promote {ref}: {found}",
        hint="what is promoted has to serve where it comes from, as git declares it",
    )


def served_difference(source: Served, target: Served) -> Data:
    """What the target's overlay of the endpoint has to say, as a JSON merge patch."""
    wanted, now = (
        one.endpoint.spec.model_dump(
            mode="json",
            by_alias=True,
            include={"model", "engine", "adapters", "parsers"},
        )
        for one in (source, target)
    )
    # What is only the newest today has to be said, or it will be another tomorrow.
    wanted["engine"]["version"] = source.version
    if source.resolution.precision != target.resolution.precision:
        wanted["precision"] = source.resolution.precision
    spec = difference(now, wanted)
    return {"spec": spec} if spec else {}


def model_difference(source: Model, target: Model) -> Data:
    """The same of the model; where the same bytes are fetched from stays as it is."""
    names = ["architecture", "trustRemoteCode"]
    same = weights_of(source.spec.source, source.spec.format).id == (
        weights_of(target.spec.source, target.spec.format).id
    )
    if not same or source.spec.format != target.spec.format:
        names += ["source", "format", "precision"]
    now, wanted = (
        model.spec.model_dump(mode="json", by_alias=True) for model in (target, source)
    )
    if "source" in names:
        _keep_credentials(now["source"], wanted["source"])
    spec = difference({n: now[n] for n in names}, {n: wanted[n] for n in names})
    return {"spec": spec} if spec else {}


def _keep_credentials(now: Data, wanted: Data) -> None:
    """By whose leave weights are fetched is each environment's own."""
    for kind in ModelSource.model_fields:
        if now[kind] and wanted[kind] and "credentials" in wanted[kind]:
            wanted[kind]["credentials"] = now[kind]["credentials"]


def difference(now: Mapping[str, Any], wanted: Mapping[str, Any]) -> Data:
    """The JSON merge patch (RFC 7396) that makes ``wanted`` of ``now``."""
    patch: Data = {}
    for key in sorted({*now, *wanted}):
        was, is_ = now.get(key), wanted.get(key)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            if below := difference(was, is_):
                patch[key] = below
        elif was != is_:
            patch[key] = difference({}, is_) if isinstance(is_, Mapping) else is_
    return patch


def compose(first: Mapping[str, Any], then: Mapping[str, Any]) -> Data:
    """One merge patch that does what two do; a ``null`` stays one."""
    both = dict(first)
    for key, value in then.items():
        below = both.get(key)
        both[key] = (
            compose(below if isinstance(below, Mapping) else {}, value)
            if isinstance(value, Mapping)
            else value
        )
    return both


def marks_of(
    environment: str, digest: str, proof: Entry, measured: Mapping[str, str] | None
) -> Data:
    """What the promoted object says of where it comes from, for whoever reviews it."""
    said = "fewer than 20 streams" if measured is None else (
        f"TTFT {float(measured['ttft_ms']):.4g} ms, TPOT {float(measured['tpot_ms']):.4g} "
        f"ms with {float(measured['isl']):.4g} tokens in, {float(measured['osl']):.4g} out, "
        f"{float(measured['concurrency']):.3g} at once a replica"
    )  # fmt: skip
    marks = {
        "from": environment,
        "digest": digest,
        "entry": str(proof.seq),
        "commit": proof.commit,
        "at": proof.at,
        "measured": said,
    }
    return {"metadata": {"annotations": {_MARK + k: v for k, v in marks.items()}}}


def claim_of(served: Served) -> Data | None:
    """What an endpoint says of its promotion; whether it is still what was promoted."""
    marks = {
        name.removeprefix(_MARK): value
        for name, value in served.endpoint.metadata.annotations.items()
        if name.startswith(_MARK)
    }
    if not {"from", "digest", "entry", "measured"} <= marks.keys():
        return None
    return {**marks, "holds": marks["digest"] == digest_of(served)}

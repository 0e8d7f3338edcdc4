"""What machines said, as what the engine sees of a cluster (pure).

Every machine keeps a record of the unit that was begun on it and whether all of it is
there. From their answers follows whether a cluster is absent, whole, half made,
strayed, out of reach in part, or unknown; it is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from hashlib import sha256

import orjson

from reconciler.targets.ansible.machines import Answer
from reconciler.values import Health, Key, Live, Presence
from schemas.errors import TemporaryError

__all__ = ["Records", "live_of", "of_cluster", "records_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The records of a cluster's machines."""

    units: Mapping[str, bytes]
    """Machine -> the unit that was begun there."""
    uid: str
    whole: bool
    """Every machine that was asked holds all of one unit."""
    silent: Mapping[str, str]
    """Machines that did not answer, and why."""

    @property
    def unit(self) -> bytes:
        """The unit that is there, or was begun last as far as anybody can tell."""
        return max(self.units.values(), default=b"")

    @property
    def version(self) -> str:
        lines = [f"{n} {sha256(u).hexdigest()}" for n, u in sorted(self.units.items())]
        lines.append(f"{self.uid} {self.whole}")
        return sha256("\n".join(lines).encode()).hexdigest()[:16]


def records_of(answers: Mapping[str, Answer]) -> Records:
    """Read what each machine holds under /var/lib/bud/cluster.json.

    Raises:
        TemporaryError: one holds something else. Never taken for nothing.
    """
    found = {}
    for name, answer in answers.items():
        if not answer.reached or answer.code:
            continue
        try:
            record = orjson.loads(answer.out)
            found[name] = (
                str(record["uid"]),
                str(record["unit"]).encode(),
                bool(record["whole"]),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise TemporaryError(
                f"cannot read the record of {name}: it is none of ours",
                hint="remove /var/lib/bud/cluster.json there, or put it back",
            ) from error
    silent = {n: a.why for n, a in answers.items() if not a.reached}
    reached = answers.keys() - silent.keys()
    alike = len({(uid, unit) for uid, unit, _ in found.values()}) == 1
    return Records(
        units={name: unit for name, (_, unit, _) in found.items()},
        uid=min((uid for uid, _, _ in found.values()), default=""),
        whole=alike
        and found.keys() == reached
        and all(whole for _, _, whole in found.values()),
        silent=silent,
    )


def of_cluster(
    answers: Mapping[str, Answer], held: Container[str]
) -> dict[str, Answer]:
    """Answers of machines that the cluster has: one that is only wanted says nothing
    of what lives, until it holds something itself."""
    return {
        name: answer
        for name, answer in answers.items()
        if name in held or (answer.reached and not answer.code)
    }


def live_of(key: Key, records: Records, drift: tuple[str, ...]) -> Live:
    quiet = "; ".join(f"{name}: {why}" for name, why in sorted(records.silent.items()))
    if not records.units:
        if records.silent:
            detail = f"no machine that answers holds a record ({quiet})"
            return Live(key=key, presence=Presence.UNKNOWN, detail=detail)
        return Live(key=key, presence=Presence.ABSENT)
    digest, version = sha256(records.unit).hexdigest(), records.version
    health, detail = Health.SERVABLE, ""
    if not records.whole:
        health = Health.DEGRADED
        detail = (
            f"half made: {len(records.units)} machines hold something; applying goes on"
        )
        digest = sha256(f"part {version}".encode()).hexdigest()
    elif drift:
        health, detail = Health.DEGRADED, f"changed by hand: {', '.join(drift[:5])}"
        strayed = sha256("\n".join(drift).encode()).hexdigest()[:12]
        digest = sha256(f"{digest} {strayed}".encode()).hexdigest()
        version = f"{version}-{strayed}"
    elif records.silent:
        # What is there is as it should be; what is silent cannot be changed anyway.
        health, detail = Health.DEGRADED, f"unreachable: {quiet}"
    return Live(
        key=key,
        presence=Presence.PRESENT,
        digest=digest,
        uid=records.uid,
        version=version,
        health=health,
        detail=detail,
        says={"release": _release(records.unit), "machines": sorted(records.units)},
    )


def _release(unit: bytes) -> str:
    try:
        return str(orjson.loads(unit)["release"])
    except (orjson.JSONDecodeError, KeyError):
        return ""

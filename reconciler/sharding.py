"""Sharding: which replica of the daemon drives what (pure).

``Replica`` asks it whenever the replicas or the clusters moved. A shard is one cluster,
with everything that is applied there; what is no cluster (the gateway, this machine,
whatever makes clusters) is one shard more. Consistent hashing with bounded loads
(Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018):
each shard goes to the next replica on a ring that has room, so that a replica that comes
or goes moves its own share and little else, and none ever holds more than its bound.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect
from collections import Counter
from collections.abc import Collection, Mapping

__all__ = ["HOME", "assign", "shard_of"]

HOME = "home"
"""The shard of all that is no cluster, and of what people decided."""
_ON_CLUSTERS = ("kubernetes", "helm")
_SLACK = 1.25
"""Of the mean load: the least bound that still moves few shards; the paper's c."""
_POINTS = 64
"""Places of a replica on the ring: with few, shares differ by more than the bound."""


def shard_of(target: str) -> str:
    """Name the shard that ``target`` belongs to; both targets of a cluster are one."""
    kind, _, cluster = target.partition("/")
    return cluster if cluster and kind in _ON_CLUSTERS else HOME


def assign(shards: Collection[str], replicas: Collection[str]) -> Mapping[str, str]:
    """Give each shard a replica; the same for everybody who knows the same names."""
    if not replicas:
        return {}
    ring = sorted((_point(f"{r}#{n}"), r) for r in replicas for n in range(_POINTS))
    bound = math.ceil(_SLACK * len(shards) / len(replicas))
    load, found = Counter[str](), dict[str, str]()
    for point, shard in sorted((_point(shard), shard) for shard in shards):
        at = bisect(ring, (point, ""))
        while load[replica := ring[at % len(ring)][1]] >= bound:
            at += 1
        load[replica] += 1
        found[shard] = replica
    return found


def _point(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])

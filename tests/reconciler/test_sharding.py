"""Which replica drives what: whole, bounded, the same for all, and few shards move."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.sharding import HOME, assign, shard_of

NAMES = st.text("abcdefghijklmnop0123456789-/", min_size=1, max_size=20)
SHARDS = st.sets(NAMES, max_size=60)
REPLICAS = st.sets(NAMES, min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("target", "shard", "reason"),
    [
        ("kubernetes/default/prod", "default/prod", "what we apply on a cluster"),
        ("helm/default/prod", "default/prod", "what Helm installs there"),
        ("gateway", HOME, "it is no cluster"),
        ("terraform", HOME, "it makes clusters, and is none"),
        ("", HOME, "what people decided"),
    ],
)
def test_both_targets_of_a_cluster_are_one_shard(
    target: str, shard: str, reason: str
) -> None:
    assert shard_of(target) == shard, reason


@given(SHARDS, REPLICAS)
def test_every_shard_has_one_replica_and_none_has_more_than_its_bound(
    shards: set[str], replicas: set[str]
) -> None:
    given_to = assign(shards, replicas)
    assert given_to.keys() == shards
    assert {*given_to.values()} <= replicas
    bound = math.ceil(1.25 * len(shards) / len(replicas))
    assert max(Counter(given_to.values()).values(), default=0) <= bound


@given(SHARDS, REPLICAS)
def test_everybody_who_knows_the_same_names_computes_the_same(
    shards: set[str], replicas: set[str]
) -> None:
    backwards = sorted(shards, reverse=True), sorted(replicas, reverse=True)
    assert assign(sorted(shards), sorted(replicas)) == assign(*backwards)


def test_without_replicas_nobody_drives_anything() -> None:
    assert assign({"default/prod"}, ()) == {}


@pytest.mark.parametrize("replicas", [2, 3, 5])
def test_a_replica_that_goes_moves_its_own_shards_and_few_others(replicas: int) -> None:
    shards = [f"default/c{number}" for number in range(200)]
    names = [f"bud-{number}" for number in range(replicas)]
    before, after = assign(shards, names), assign(shards, names[1:])
    moved = [s for s in shards if before[s] != after[s]]
    theirs = [s for s in shards if before[s] == names[0]]
    assert {*theirs} <= {*moved}
    # A modulo would move (n - 1) / n of them all.
    assert len(moved) - len(theirs) <= len(shards) / 5

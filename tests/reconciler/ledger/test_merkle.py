"""Roots and proofs against RFC 6962 taken literally, and against every bent proof."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ledger import merkle

LEAVES = [merkle.leaf_hash(bytes([number])) for number in range(64)]
SIZES = range(1, 65)
OTHER = sha256(b"other").digest()


def reference(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, over leaf hashes."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = reference(leaves[:split]), reference(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


def grow(leaves: list[bytes]) -> dict[tuple[int, int], bytes]:
    """Every node, as the store would keep it."""
    tree, nodes = merkle.Tree(), {}
    for seq, leaf in enumerate(leaves):
        for level, node in enumerate(tree.append(leaf)):
            nodes[level, seq >> level] = node
    return nodes


NODES = grow(LEAVES)
ROOTS = [reference(LEAVES[:size]) for size in range(65)]


def read(level: int, index: int) -> bytes:
    return NODES[level, index]


@given(st.lists(st.binary(max_size=8), max_size=200))
def test_a_growing_tree_has_the_root_of_rfc_6962(data: list[bytes]) -> None:
    leaves = [merkle.leaf_hash(item) for item in data]
    tree = merkle.Tree()
    for leaf in leaves:
        tree.append(leaf)

    nodes = grow(leaves)
    assert tree.root() == reference(leaves)
    assert merkle.root(len(leaves), lambda *at: nodes[at]) == reference(leaves)


@pytest.mark.parametrize("size", range(65))
def test_a_tree_is_taken_up_again_from_its_nodes(size: int) -> None:
    tree = merkle.Tree.of(size, read)

    assert tree.root() == ROOTS[size]
    for leaf in LEAVES[size:]:
        tree.append(leaf)
    assert tree.root() == ROOTS[64]


# The tree of the Certificate Transparency implementations' own tests.
PUBLISHED = [
    bytes.fromhex(item)
    for item in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")
] + [bytes.fromhex("606162636465666768696a6b6c6d6e6f")]


def test_the_published_tree_has_its_published_root() -> None:
    tree = merkle.Tree()
    for item in PUBLISHED:
        tree.append(merkle.leaf_hash(item))

    assert merkle.leaf_hash(b"").hex().startswith("6e340b9cffb37a989ca544e6bb780a2c")
    assert tree.root().hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )


def test_a_leaf_is_never_taken_for_a_node() -> None:
    forged = LEAVES[0] + LEAVES[1]

    assert merkle.leaf_hash(forged) != merkle.node_hash(LEAVES[0], LEAVES[1])


Inclusion = tuple[bytes, int, int, list[bytes], bytes]
Consistency = tuple[int, int, list[bytes], bytes, bytes]


def bent(path: list[bytes]) -> Iterator[list[bytes]]:
    """Ten ways to bend a list of hashes; some need one or two to be there."""
    yield [*path, OTHER]
    yield [OTHER, *path]
    yield [*path, b""]
    yield [*path, path[-1] if path else bytes(32)]
    for at in {0, len(path) // 2, len(path) - 1} if path else ():
        flipped = bytes([path[at][0] ^ 1]) + path[at][1:]
        yield [*path[:at], flipped, *path[at + 1 :]]
        yield [*path[:at], *path[at + 1 :]]
        yield [*path[:at], path[at][:-1], *path[at + 1 :]]
        yield [*path[:at], path[at] + b"\0", *path[at + 1 :]]
    if len(path) > 1:
        yield path[::-1]
        yield [path[0] + path[1], *path[2:]]
        # The same bytes in a row, divided elsewhere.
        yield [path[1][-1:] + path[0], path[1][:-1], *path[2:]]


def bent_inclusions(proof: Inclusion) -> Iterator[Inclusion]:
    leaf, index, size, path, root = proof
    yield OTHER, index, size, path, root
    yield leaf, index, size, path, OTHER
    yield leaf, index, size, path, root[:-1]
    for wrong in (index - 1, index + 1, index ^ 2, index + size):
        yield leaf, wrong, size, path, root
    # A size is bound to its root by the checkpoint's signature; here only those
    # that change the length of the path can be told.
    for wrong in (0, -size, size * 2, size // 2):
        yield leaf, index, wrong, path, root
    for wrong_path in bent(path):
        yield leaf, index, size, wrong_path, root


def bent_consistencies(proof: Consistency) -> Iterator[Consistency]:
    old, new, path, old_root, new_root = proof
    yield old, new, path, OTHER, new_root
    yield old, new, path, old_root, OTHER
    yield old, new, path, old_root[:-1], new_root
    if old != new:
        yield old, new, path, new_root, old_root
        yield new, old, path, old_root, new_root
        yield new, new, path, old_root, new_root
        yield old, old, path, old_root, new_root
    for wrong in (0, -old, new + 1):
        yield wrong, new, path, old_root, new_root
    for wrong_path in bent(path):
        yield old, new, wrong_path, old_root, new_root


@pytest.mark.parametrize("size", SIZES)
def test_every_inclusion_is_proven_and_no_bent_proof_accepted(size: int) -> None:
    for index in range(size):
        path = merkle.inclusion_proof(index, size, read)
        proof = (LEAVES[index], index, size, path, ROOTS[size])
        mutants = [mutant for mutant in bent_inclusions(proof) if mutant != proof]

        assert merkle.check_inclusion(*proof)
        assert len(mutants) >= 10
        assert [mutant for mutant in mutants if merkle.check_inclusion(*mutant)] == []


@pytest.mark.parametrize("new", SIZES)
def test_every_growth_is_proven_and_no_bent_proof_accepted(new: int) -> None:
    for old in range(1, new + 1):
        path = merkle.consistency_proof(old, new, read)
        proof = (old, new, path, ROOTS[old], ROOTS[new])
        mutants = [mutant for mutant in bent_consistencies(proof) if mutant != proof]

        assert merkle.check_consistency(*proof)
        assert len(mutants) >= 10
        assert [mutant for mutant in mutants if merkle.check_consistency(*mutant)] == []


@pytest.mark.parametrize("new", SIZES)
def test_a_rewritten_past_is_never_consistent(new: int) -> None:
    rewritten = grow([OTHER, *LEAVES[1:]])
    forged_root = merkle.root(new, lambda *at: rewritten[at])
    for old in range(1, new):
        path = merkle.consistency_proof(old, new, lambda *at: rewritten[at])
        assert not merkle.check_consistency(old, new, path, ROOTS[old], forged_root)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_no_proof_is_made_of_an_entry_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="cannot prove entry"):
        merkle.inclusion_proof(index, size, read)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_no_proof_is_made_of_a_growth_that_was_none(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="a prefix"):
        merkle.consistency_proof(old, new, read)


def test_proofs_of_a_million_read_few_nodes() -> None:
    reads: list[tuple[int, int]] = []

    def counting(level: int, index: int) -> bytes:
        reads.append((level, index))
        return bytes(32)

    size = 1_000_000
    for index in (0, 999_999, 524_287):
        merkle.inclusion_proof(index, size, counting)
        merkle.consistency_proof(index + 1, size, counting)
    assert len(reads) <= 6 * 2 * size.bit_length()

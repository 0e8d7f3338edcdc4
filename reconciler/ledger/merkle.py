"""RFC 6962 Merkle trees: roots and proofs over hashes kept elsewhere.

The journal grows a `Tree` and keeps what `append` returns; proofs read O(log n)
of those nodes back through a `Nodes` function. Pure: no I/O of its own.

A node is named by its level and its index in that level; node (l, i) is the
root of the complete subtree over leaves [i * 2**l, (i+1) * 2**l), which is the
"stored hash" of golang.org/x/mod/sumdb/tlog and never changes once written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from hashlib import sha256

__all__ = [
    "EMPTY_ROOT",
    "Nodes",
    "Tree",
    "check_consistency",
    "check_inclusion",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "node_hash",
    "root",
]

Nodes = Callable[[int, int], bytes]
"""(level, index) -> the hash of that complete subtree."""

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """The right edge of a growing tree: all it takes to append and to know the root."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """``peaks`` are the complete subtrees of ``size`` leaves, largest first."""
        self.size = size
        self.peaks = list(peaks)

    @classmethod
    def of(cls, size: int, nodes: Nodes) -> Tree:
        return cls(size, [nodes(*at) for at in _cover(0, size)])

    def append(self, leaf: bytes) -> tuple[bytes, ...]:
        """Add a leaf hash; returns the nodes it completes, level 0 upwards."""
        node = leaf
        completed: tuple[bytes, ...] = (leaf,)
        rest = self.size
        while rest & 1:
            node = node_hash(self.peaks.pop(), node)
            completed += (node,)
            rest >>= 1
        self.peaks.append(node)
        self.size += 1
        return completed

    def root(self) -> bytes:
        return _fold(self.peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    return reduce(lambda right, left: node_hash(left, right), reversed(peaks))


def _cover(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The complete subtrees that make up leaves [low, high), largest first.

    ``low`` is a multiple of a power of two not below ``high - low``, as in every
    split of RFC 6962.
    """
    while low < high:
        level = (high - low).bit_length() - 1
        yield level, low >> level
        low += 1 << level


def _range(low: int, high: int, nodes: Nodes) -> bytes:
    return _fold([nodes(*at) for at in _cover(low, high)])


def _split(low: int, high: int) -> int:
    """Where RFC 6962 divides [low, high): the largest power of two below its size."""
    return low + (1 << ((high - low - 1).bit_length() - 1))


def root(size: int, nodes: Nodes) -> bytes:
    return _range(0, size, nodes)


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """That leaf ``index`` is in the tree of ``size`` leaves: PATH of RFC 6962 §2.1.1."""
    if not 0 <= index < size:
        raise ValueError(f"cannot prove entry {index}: the tree has {size}")
    low, high, path = 0, size, []
    while high - low > 1:
        split = _split(low, high)
        if index < split:
            path.append(_range(split, high, nodes))
            high = split
        else:
            path.append(_range(low, split, nodes))
            low = split
    return path[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """That ``old`` leaves are a prefix of ``new``: PROOF of RFC 6962 §2.1.2."""
    if not 0 < old <= new:
        raise ValueError(f"cannot prove {old} entries a prefix of {new}")
    low, high, proof = 0, new, []
    while old < high:
        split = _split(low, high)
        if old <= split:
            proof.append(_range(split, high, nodes))
            high = split
        else:
            proof.append(_range(low, split, nodes))
            low = split
    if low:  # otherwise it is the old root itself, which the verifier holds
        proof.append(_range(low, high, nodes))
    return proof[::-1]


def check_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes
) -> bool:
    """Whether ``path`` proves it: RFC 9162 §2.1.3.2."""
    if not 0 <= index < size or not _well_formed(path):
        return False
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected


def check_consistency(
    old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Whether ``proof`` proves it: RFC 9162 §2.1.4.2."""
    if not 0 < old <= new or not _well_formed(proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    # A complete old tree is a node of the new one: the proof leaves it out.
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    found_old = found_new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            found_old = node_hash(sibling, found_old)
            found_new = node_hash(sibling, found_new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found_new = node_hash(found_new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found_old == old_root and found_new == new_root


def _well_formed(hashes: Sequence[bytes]) -> bool:
    return all(len(item) == len(EMPTY_ROOT) for item in hashes)

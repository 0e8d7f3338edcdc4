"""Any edit, drop, reorder, truncation or fork is found."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

import pytest

from reconciler.ledger import (
    GENESIS,
    Checkpoint,
    Signer,
    link,
    parse,
    sign_checkpoint,
    verify,
)
from reconciler.ledger.merkle import Tree, leaf_hash
from schemas.errors import ChainBrokenError

Log = tuple[bytes, ...]


def root(log: Log) -> bytes:
    tree = Tree()
    for line in log:
        tree.append(leaf_hash(line))
    return tree.root()


def exported(log: Log) -> bytes:
    return b"".join(line + b"\n" for line in log)


def found(data: bytes, checkpoint: Checkpoint) -> bool:
    """Whether the log is refused, or told to go on where nobody vouches for it."""
    try:
        head = verify(data.splitlines(keepends=True), [checkpoint])
    except ChainBrokenError:
        return True
    return head.witnessed < head.size


def relinked(lines: list[bytes]) -> Log:
    """What a forger without the key makes of changed lines: a chain that holds."""
    head, log = GENESIS, []
    for seq, line in enumerate(lines):
        log.append(replace(parse(line), seq=seq, prev=head.hex()).line())
        head = link(head, log[-1])
    return tuple(log)


@pytest.fixture(scope="module")
def checkpoint(log: Log, signer: Signer) -> Checkpoint:
    return sign_checkpoint(signer, len(log), root(log))


def test_an_untouched_log_is_verified(log: Log, checkpoint: Checkpoint) -> None:
    head = verify(exported(log).splitlines(keepends=True), [checkpoint])

    assert (head.size, head.root, head.witnessed) == (len(log), root(log), len(log))


def test_every_truncation_is_found(log: Log, checkpoint: Checkpoint) -> None:
    data = exported(log)
    assert [end for end in range(len(data)) if not found(data[:end], checkpoint)] == []


def test_every_flipped_bit_is_found(log: Log, checkpoint: Checkpoint) -> None:
    data = exported(log)
    missed = []
    for at in range(len(data)):
        for bit in range(8):
            bent = bytearray(data)
            bent[at] ^= 1 << bit
            if not found(bytes(bent), checkpoint):
                missed.append((at, bit))
    assert missed == []


def reworked(log: Log) -> Iterator[list[bytes]]:
    lines = list(log)
    for at in range(len(lines)):
        yield lines[:at] + lines[at + 1 :]  # dropped
        yield [*lines[: at + 1], *lines[at:]]  # repeated
        yield [*lines[:at], lines[at].replace(b"tester", b"nobody"), *lines[at + 1 :]]
    for one, two in combinations(range(len(lines)), 2):
        swapped = lines.copy()
        swapped[one], swapped[two] = swapped[two], swapped[one]
        yield swapped
    yield lines[::-1]
    yield []


def test_every_drop_repeat_edit_and_swap_is_found(
    log: Log, checkpoint: Checkpoint
) -> None:
    reworkings = list(reworked(log))

    assert len(reworkings) == 3 * 10 + 45 + 2
    assert all(found(exported(tuple(lines)), checkpoint) for lines in reworkings)


def test_a_forger_who_mends_the_chain_is_found_by_the_checkpoint(
    log: Log, checkpoint: Checkpoint
) -> None:
    for lines in reworked(log):
        forged = relinked(lines)
        verify(exported(forged).splitlines(keepends=True))  # the chain alone holds
        assert found(exported(forged), checkpoint)


def test_a_fork_is_found_by_two_checkpoints(log: Log, signer: Signer) -> None:
    ours = sign_checkpoint(signer, 6, root(log[:6]))
    other = relinked([*log[:4], log[4].replace(b"tester", b"nobody"), *log[5:]])
    forked = sign_checkpoint(signer, len(other), root(other))
    for branch in (log, other):
        with pytest.raises(ChainBrokenError, match="rewritten or forked"):
            verify(exported(branch).splitlines(keepends=True), [ours, forked])


def test_the_first_bad_entry_is_named(log: Log) -> None:
    lines = exported(log).splitlines(keepends=True)
    lines[3] = lines[3].replace(b"tester", b"nobody")
    with pytest.raises(ChainBrokenError, match="cannot verify entry 4") as caught:
        verify(lines)

    assert caught.value.seq == 4
    assert caught.value.expected != caught.value.found == parse(log[4]).prev


def test_an_entry_that_miscounts_itself_is_found(log: Log) -> None:
    lines = [log[0], replace(parse(log[1]), seq=2).line()]
    with pytest.raises(ChainBrokenError, match="entry 1: found entry 2"):
        verify(line + b"\n" for line in lines)


def test_what_no_checkpoint_vouches_for_is_told(log: Log, signer: Signer) -> None:
    head = verify(
        exported(log).splitlines(keepends=True),
        [
            sign_checkpoint(signer, 4, root(log[:4])),
            sign_checkpoint(signer, 0, root(())),
        ],
    )

    assert (head.size, head.witnessed) == (len(log), 4)


def test_verifying_takes_no_memory_for_its_length(log: Log) -> None:
    def lines(count: int) -> Iterator[bytes]:
        head = GENESIS
        first = parse(log[0])
        for seq in range(count):
            line = replace(first, seq=seq, prev=head.hex()).line()
            head = link(head, line)
            yield line + b"\n"

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            verify(lines(count))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(10_000) < peak(100) + 4096

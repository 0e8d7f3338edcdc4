"""Proof documents stand alone, and no bent one is accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.ledger import (
    Checkpoint,
    Signer,
    check_proof,
    parse,
    prove_consistency,
    prove_inclusion,
    read_proof,
    sign_checkpoint,
)
from reconciler.ledger.merkle import Nodes, Tree, leaf_hash
from schemas.errors import ChainBrokenError

Log = tuple[bytes, ...]


@pytest.fixture(scope="module")
def nodes(log: Log) -> Nodes:
    tree, kept = Tree(), {}
    for seq, line in enumerate(log):
        for level, node in enumerate(tree.append(leaf_hash(line))):
            kept[level, seq >> level] = node
    return lambda *at: kept[at]


def signed(log: Log, size: int, signer: Signer) -> Checkpoint:
    tree = Tree()
    for line in log[:size]:
        tree.append(leaf_hash(line))
    return sign_checkpoint(signer, size, tree.root())


def test_every_entry_can_be_proven(log: Log, nodes: Nodes, signer: Signer) -> None:
    head = signed(log, len(log), signer)
    for seq, line in enumerate(log):
        document = prove_inclusion(line, seq, head, nodes).model_dump_json()

        assert check_proof(read_proof(document), [signer.verifier]) == parse(line)


def test_every_growth_can_be_proven(log: Log, nodes: Nodes, signer: Signer) -> None:
    for new in range(1, len(log) + 1):
        for old in range(1, new + 1):
            checkpoints = (signed(log, old, signer), signed(log, new, signer))
            document = prove_consistency(*checkpoints, nodes).model_dump_json()

            assert check_proof(read_proof(document), [signer.verifier]) is None


def bent(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every character of every text changed, every number moved, every field gone."""
    for name, value in document.items():
        yield {key: item for key, item in document.items() if key != name}
        if isinstance(value, int):
            yield from (document | {name: wrong} for wrong in (value + 1, value - 1))
            continue
        texts = [value] if isinstance(value, str) else value
        for number, text in enumerate(texts):
            for at, letter in enumerate(text):
                wrong = text[:at] + chr(ord(letter) ^ 1) + text[at + 1 :]
                changed = [*texts[:number], wrong, *texts[number + 1 :]]
                yield document | {
                    name: wrong if isinstance(value, str) else changed,
                }
    yield document | {"more": ""}


def test_no_bent_proof_is_accepted(log: Log, nodes: Nodes, signer: Signer) -> None:
    head, old = signed(log, len(log), signer), signed(log, 3, signer)
    for proof in (
        prove_inclusion(log[3], 3, head, nodes),
        prove_consistency(old, head, nodes),
    ):
        mutants = list(bent(proof.model_dump(mode="json")))
        assert len(mutants) > 500
        for mutant in mutants:
            with pytest.raises(ChainBrokenError):
                check_proof(read_proof(json.dumps(mutant)), [signer.verifier])


def test_another_entry_is_not_proven_by_this_path(
    log: Log, nodes: Nodes, signer: Signer
) -> None:
    proof = prove_inclusion(log[3], 3, signed(log, len(log), signer), nodes)
    with pytest.raises(ChainBrokenError, match="its entry is 2"):
        check_proof(
            proof.model_copy(update={"entry": log[2].decode()}), [signer.verifier]
        )


def test_a_key_that_nobody_pinned_proves_nothing(
    log: Log, nodes: Nodes, signer: Signer
) -> None:
    forger = Signer(signer.name, bytes(32))
    proof = prove_inclusion(log[3], 3, signed(log, len(log), forger), nodes)
    with pytest.raises(ChainBrokenError, match="nobody known signed it"):
        check_proof(proof, [signer.verifier])


def test_growth_from_one_log_into_another_is_no_growth(
    log: Log, nodes: Nodes, signer: Signer
) -> None:
    other = Signer("bud/other", bytes(32))
    proof = prove_consistency(signed(log, 3, signer), signed(log, 9, other), nodes)
    with pytest.raises(ChainBrokenError, match="do not join"):
        check_proof(proof, [signer.verifier, other.verifier])


def test_what_is_no_proof_is_refused() -> None:
    for text in ("", "{}", "[]", '{"kind":"bud.ledger/other/v1"}'):
        with pytest.raises(ChainBrokenError, match="cannot read proof"):
            read_proof(text)

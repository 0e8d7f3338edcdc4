"""golang.org/x/mod/sumdb reads, writes and proves our log byte for byte."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.ledger import (
    GENESIS,
    Draft,
    Signer,
    link,
    merkle,
    prove_consistency,
    prove_inclusion,
    seal,
    sign_checkpoint,
)

SOURCE = Path(__file__).parent / "ledger"
SIZE = 64
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def sumdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built from its pinned module."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed")
    program = tmp_path_factory.mktemp("sumdb") / "ledger"
    subprocess.run(
        [go, "build", "-o", program, "."],
        cwd=SOURCE,
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"},
        check=True,
        capture_output=True,
        timeout=240,
    )
    return program


class Log:
    """As the store keeps it: lines, nodes by place, a checkpoint for every size."""

    def __init__(self, signer: Signer) -> None:
        self.lines: list[bytes] = []
        self.completed: list[tuple[bytes, ...]] = []
        self.checkpoints = []
        head, tree = GENESIS, merkle.Tree()
        for seq in range(SIZE):
            draft = Draft(
                actor="tester",
                commit="c" * 40,
                plan="p" * 64,
                step=f"create {seq}",
                target="local:Endpoint/default/chat",
                outcome="failed",
                error='no "room" \\ left\n\u2028 né 𝄞',
            )
            self.lines.append(seal(draft, seq=seq, at=NOW, prev=head).line())
            head = link(head, self.lines[-1])
            self.completed.append(tree.append(merkle.leaf_hash(self.lines[-1])))
            self.checkpoints.append(sign_checkpoint(signer, seq + 1, tree.root()))

    def nodes(self, level: int, index: int) -> bytes:
        return self.completed[((index + 1) << level) - 1][level]

    def proofs(self) -> list[dict[str, Any]]:
        documents = []
        for size, checkpoint in enumerate(self.checkpoints, start=1):
            for seq, line in enumerate(self.lines[:size]):
                inclusion = prove_inclusion(line, seq, checkpoint, self.nodes)
                documents.append(inclusion.model_dump())
                growth = prove_consistency(
                    self.checkpoints[seq], checkpoint, self.nodes
                )
                documents.append(growth.model_dump())
        return documents


def ask(program: Path, signer: Signer, log: Log, proofs: object) -> dict[str, Any]:
    question = {
        "signer": signer.reveal(),
        "verifier": str(signer.verifier),
        "lines": [line.decode() for line in log.lines],
        "proofs": proofs,
    }
    answered = subprocess.run(
        [program],
        input=json.dumps(question).encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(answered.stdout)
    return answer


def encoded(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in hashes]


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer("bud/interop", bytes(range(32)))


@pytest.fixture(scope="module")
def log(signer: Signer) -> Log:
    return Log(signer)


@pytest.fixture(scope="module")
def theirs(sumdb: Path, signer: Signer, log: Log) -> dict[str, Any]:
    return ask(sumdb, signer, log, log.proofs())


def test_they_keep_the_nodes_that_we_keep(theirs: dict[str, Any], log: Log) -> None:
    assert theirs["stored"] == [encoded(nodes) for nodes in log.completed]


def test_they_find_our_root_for_every_size(theirs: dict[str, Any], log: Log) -> None:
    assert theirs["roots"] == encoded([item.root for item in log.checkpoints])


def test_they_sign_every_checkpoint_as_we_do(theirs: dict[str, Any], log: Log) -> None:
    assert theirs["notes"] == [checkpoint.note for checkpoint in log.checkpoints]


def test_they_make_the_proofs_that_we_make(theirs: dict[str, Any], log: Log) -> None:
    for size in range(1, SIZE + 1):
        for seq in range(size):
            path = merkle.inclusion_proof(seq, size, log.nodes)
            assert theirs["inclusion"][size - 1][seq] == encoded(path)
            growth = merkle.consistency_proof(seq + 1, size, log.nodes)
            # Go writes an empty proof as null.
            assert (theirs["consistency"][size - 1][seq] or []) == encoded(growth)


def test_they_accept_every_proof_of_ours(theirs: dict[str, Any]) -> None:
    assert len(theirs["verdicts"]) == SIZE * (SIZE + 1)
    assert set(theirs["verdicts"]) == {""}


def test_they_refuse_what_we_refuse(sumdb: Path, signer: Signer, log: Log) -> None:
    bent = []
    for proof in log.proofs()[-2 * SIZE :]:
        bent.extend(
            proof | {name: proof[name].replace("0", "1", 1) + " "}
            for name in {"checkpoint", "old", "new", "entry"} & proof.keys()
        )
        if proof["hashes"]:
            bent.append(proof | {"hashes": proof["hashes"][:-1]})
            bent.append(proof | {"hashes": [proof["hashes"][0], *proof["hashes"]]})
            bent.append(proof | {"hashes": [*encoded([GENESIS]), *proof["hashes"][1:]]})

    verdicts = ask(sumdb, signer, log, bent)["verdicts"]
    assert len(bent) > 5 * SIZE
    assert "" not in verdicts

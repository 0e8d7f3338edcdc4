"""The ledger as values: entries, chain, tree, checkpoints, proofs. No I/O."""

from reconciler.ledger.entry import (
    DECIDED,
    GENESIS,
    INTENDED,
    Draft,
    Entry,
    link,
    parse,
    rfc3339,
    seal,
)
from reconciler.ledger.note import (
    Checkpoint,
    Signer,
    Verifier,
    open_checkpoint,
    sign_checkpoint,
)
from reconciler.ledger.proof import (
    ConsistencyProof,
    InclusionProof,
    check_proof,
    prove_consistency,
    prove_inclusion,
    read_proof,
)
from reconciler.ledger.verify import Head, Replay, verify

__all__ = [
    "DECIDED",
    "GENESIS",
    "INTENDED",
    "Checkpoint",
    "ConsistencyProof",
    "Draft",
    "Entry",
    "Head",
    "InclusionProof",
    "Replay",
    "Signer",
    "Verifier",
    "check_proof",
    "link",
    "open_checkpoint",
    "parse",
    "prove_consistency",
    "prove_inclusion",
    "read_proof",
    "rfc3339",
    "seal",
    "sign_checkpoint",
    "verify",
]

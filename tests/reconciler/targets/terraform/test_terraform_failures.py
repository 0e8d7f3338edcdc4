"""What a provider says decides whether to wait or to call someone."""

import json

import pytest

from reconciler.targets.terraform.failures import diagnostics, failure, lock_of
from schemas.errors import FoundryError, PermanentError, TemporaryError

LOCKED = """
│ Error: Error acquiring the state lock
│
│ Error message: operation error S3: PutObject, StatusCode: 412
│ Lock Info:
│   ID:        9d2f6c1e-4a3b-6c8d-0c57-000000000000
│   Path:      states/env:/default.prod/bud
│   Operation: OperationTypeApply
│   Who:       root@node-1
│   Version:   1.11.4
│   Created:   2026-01-02 03:04:05.6 +0000 UTC
"""


@pytest.mark.parametrize(
    ("said", "kind", "reason"),
    [
        ("ThrottlingException: Rate exceeded", TemporaryError, "it passes"),
        ("Saved plan is stale", TemporaryError, "the next plan is not"),
        (LOCKED, TemporaryError, "somebody else is at work"),
        ("InsufficientInstanceCapacity: no p5", TemporaryError, "capacity comes back"),
        ("dial tcp 10.0.0.1:443: connection refused", TemporaryError, "a network"),
        ("DependencyViolation: vpc has dependencies", TemporaryError, "they go first"),
        ("AccessDenied: not authorized", PermanentError, "somebody must grant it"),
        ("ExpiredToken: the token has expired", PermanentError, "somebody renews it"),
        ("VcpuLimitExceeded: you have requested", PermanentError, "a quota"),
        ("ResourceAlreadyExistsException: it is", PermanentError, "not in the state"),
        ("Resource postcondition failed\n429 vCPUs", PermanentError, "ours decides"),
        ("something nobody has seen", PermanentError, "better to call someone"),
    ],
)
def test_an_error_says_what_to_do_next(
    said: str, kind: type[FoundryError], reason: str
) -> None:
    error = failure("apply", "Cluster/default/prod", said)
    assert type(error) is kind, reason
    assert str(error).startswith("cannot apply Cluster/default/prod: ")


def test_a_lock_says_who_holds_it() -> None:
    lock = lock_of(LOCKED)
    assert lock is not None
    assert lock.id == "9d2f6c1e-4a3b-6c8d-0c57-000000000000"
    assert lock.who == "root@node-1"
    assert lock_of("ThrottlingException") is None


def test_a_log_is_read_for_its_errors_only() -> None:
    lines = [
        {"type": "version", "@message": "Terraform 1.11.4"},
        {
            "type": "diagnostic",
            "diagnostic": {"severity": "warning", "summary": "old", "detail": ""},
        },
        {
            "type": "diagnostic",
            "diagnostic": {
                "severity": "error",
                "summary": "creating EKS Cluster",
                "detail": "AccessDenied",
                "address": "aws_eks_cluster.this",
            },
        },
    ]
    log = "\n".join(json.dumps(line) for line in lines).encode() + b"\nnot json"
    assert (
        diagnostics(log) == "aws_eks_cluster.this: creating EKS Cluster\nAccessDenied"
    )
    assert diagnostics(b"plain text") == "plain text"


def test_a_long_message_is_cut() -> None:
    assert len(failure("apply", "it", "word " * 1000).args[0]) < 700

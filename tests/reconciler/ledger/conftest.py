"""A small log of known content, and the key that signs for it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.ledger import GENESIS, Draft, Signer, link, seal

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
TEXTS = ("", "plain", 'a "quote" and a \\', "né à Œuvre 𝄞 \x7f\u2028", "a\nb\tc\x01")


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer("bud/test", bytes(range(32)))


@pytest.fixture(scope="session")
def log() -> tuple[bytes, ...]:
    """Lines without their newlines; their texts need every kind of escape."""
    lines: list[bytes] = []
    head = GENESIS
    for seq, text in enumerate(TEXTS * 2):
        draft = Draft(
            actor="tester",
            commit="c" * 40,
            plan="p" * 64,
            step=f"create {seq}",
            target="local:Endpoint/default/chat",
            outcome="failed" if text else "intended",
            error=text,
        )
        at = START + timedelta(seconds=seq)
        lines.append(seal(draft, seq=seq, at=at, prev=head).line())
        head = link(head, lines[-1])
    return tuple(lines)

"""Signed notes as golang.org/x/mod/sumdb/note has them."""

from __future__ import annotations

import pytest

from reconciler.ledger import Signer, Verifier, open_checkpoint, sign_checkpoint
from schemas.errors import ChainBrokenError

# The example in the documentation of golang.org/x/mod/sumdb/note.
PRIVATE = (
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
)
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNATURE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZ"
    "SNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ROOT = bytes(range(32))


def test_the_published_example_is_signed_byte_for_byte() -> None:
    signer = Signer.parse(PRIVATE)

    assert str(signer.verifier) == PUBLIC
    assert signer.sign(TEXT) == f"{TEXT}\n{SIGNATURE}"
    assert signer.reveal() == PRIVATE
    assert Verifier.parse(PUBLIC) == signer.verifier


def test_a_signer_never_shows_its_key(signer: Signer) -> None:
    secret = signer.reveal().split("+")[-1]

    assert secret not in str(signer) + repr(signer) + repr([signer])


def test_a_checkpoint_is_origin_size_and_root(signer: Signer) -> None:
    checkpoint = sign_checkpoint(signer, 12, ROOT)

    body, _, signature = checkpoint.note.partition("\n\n")
    assert body == "bud/test\n12\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    assert signature.startswith("\u2014 bud/test ")
    assert open_checkpoint(checkpoint.note, [signer.verifier]) == checkpoint


def test_every_flipped_bit_of_a_checkpoint_is_found(signer: Signer) -> None:
    note = sign_checkpoint(signer, 12, ROOT).note.encode()
    accepted = []
    for at in range(len(note)):
        for bit in range(8):
            bent = bytearray(note)
            bent[at] ^= 1 << bit
            try:
                accepted.append(open_checkpoint(bent.decode(), [signer.verifier]))
            except (ChainBrokenError, UnicodeDecodeError):
                continue
    assert accepted == []


def test_every_truncation_of_a_checkpoint_is_found(signer: Signer) -> None:
    note = sign_checkpoint(signer, 12, ROOT).note
    for end in range(len(note)):
        with pytest.raises(ChainBrokenError):
            open_checkpoint(note[:end], [signer.verifier])


def test_signatures_of_witnesses_are_passed_over(signer: Signer) -> None:
    witness = Signer("witness.example", bytes(32))
    note = sign_checkpoint(signer, 12, ROOT).note
    text = note.partition("\n\n")[0] + "\n"
    cosigned = note + witness.sign(text).rpartition("\n\n")[2]

    assert open_checkpoint(cosigned, [signer.verifier]).size == 12
    with pytest.raises(ChainBrokenError, match="it speaks for 'bud/test'"):
        open_checkpoint(cosigned, [witness.verifier])


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ("", "not a note"),
        ("bud/test\n1\n", "not a note"),
        ("bud/test\n1\nAA==\n\nno signature\n", "no signature"),
        ("bud/test\n1\nAA==\n\n\u2014 bud/test AAA=\n", "no signature"),
        ("bud/test\n1\nAA==\n\n\u2014 bud/test AAAAAAA\n", "not base64"),
        ("bud/test\n1\nAA==\n\n\u2014 bud/test AAAAAAB=\n", "not canonical base64"),
        ("bud/test\n1\nAA==\n\n\u2014 other AAAAAAA=\n", "nobody known signed it"),
        ("bud/test\r\n1\nAA==\n\n\u2014 other AAAAAAA=\n", "not a note"),
    ],
)
def test_what_is_no_note_is_refused(signer: Signer, note: str, reason: str) -> None:
    with pytest.raises(ChainBrokenError, match=f"cannot open checkpoint: .*{reason}"):
        open_checkpoint(note, [signer.verifier])


@pytest.mark.parametrize(
    "body",
    [
        "bud/test\n",
        "bud/test\n01\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "bud/test\n-1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
        "bud/test\n1\nAAEC\n",
        "\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(
    signer: Signer, body: str
) -> None:
    with pytest.raises(ChainBrokenError, match="not origin, size and root"):
        open_checkpoint(signer.sign(body), [signer.verifier])


def test_a_key_for_another_log_does_not_speak_for_this_one(signer: Signer) -> None:
    note = signer.sign("bud/other\n1\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    with pytest.raises(ChainBrokenError, match="it speaks for 'bud/other'"):
        open_checkpoint(note, [signer.verifier])


@pytest.mark.parametrize(
    "text",
    [
        "",
        PUBLIC[:-1],
        PUBLIC.replace("PeterNeumann", "PaulNeumann"),
        PUBLIC.replace("c74f20a3", "c74f20a4"),
        PUBLIC.replace("+ARpc", "+Apc2"),
        "two words+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)
def test_a_public_key_with_an_error_in_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read key|base64"):
        Verifier.parse(text)


@pytest.mark.parametrize(
    "text", [PUBLIC, PRIVATE[:-4], PRIVATE.replace("c74f20a3", "c74f20a4")]
)
def test_a_private_key_with_an_error_in_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        Signer.parse(text)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_a_name_that_would_break_the_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name key"):
        Verifier(name, bytes(32))

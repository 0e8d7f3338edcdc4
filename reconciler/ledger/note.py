"""Signed notes and checkpoints: what a witness keeps of the ledger.

Formats: C2SP signed-note and tlog-checkpoint, as golang.org/x/mod/sumdb/note
reads them. The journal signs, `verify` and the witness open. Pure: keys come
as text, and where they are stored is not known here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from schemas.errors import ChainBrokenError

__all__ = ["Checkpoint", "Signer", "Verifier", "open_checkpoint", "sign_checkpoint"]

_ED25519 = b"\x01"
"""The algorithm's identifier in a key of the signed-note format."""
_NAME = re.compile(r"[^\s+]+")
_MAX_NOTE = 1_000_000
"""As golang.org/x/mod/sumdb/note: anything longer is not a note."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key by name. Printed as ``name+hash+key``; pin it outside."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"cannot name key: {self.name!r} has white space or a +")

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(_ED25519 + self.key)}"

    @classmethod
    def parse(cls, text: str) -> Self:
        name, found_id, key = _parse_key(text)
        verifier = cls(name, key)
        if verifier.id != found_id:
            raise ValueError(f"cannot read key: {text!r} does not match its own hash")
        return verifier

    def accepts(self, text: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.key).verify(signature, text)
        except InvalidSignature:
            return False
        return True


class Signer:
    """A private key by name, written ``PRIVATE+KEY+name+hash+key``."""

    def __init__(self, name: str, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifier = Verifier(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def parse(cls, text: str) -> Self:
        if not text.startswith("PRIVATE+KEY+"):
            raise ValueError("cannot read private key: it does not say what it is")
        name, found_id, seed = _parse_key(text.removeprefix("PRIVATE+KEY+"))
        signer = cls(name, seed)
        if signer.verifier.id != found_id:
            raise ValueError("cannot read private key: it does not match its own hash")
        return signer

    def __repr__(self) -> str:
        return f"<Signer {self.verifier}>"

    @property
    def name(self) -> str:
        return self.verifier.name

    def reveal(self) -> str:
        """The private key as text, for the one file it is kept in."""
        key = _encode(_ED25519 + self._key.private_bytes_raw())
        return f"PRIVATE+KEY+{self.name}+{self.verifier.id.hex()}+{key}"

    def sign(self, text: str) -> str:
        """A note: the text, an empty line, one signature line."""
        signature = self.verifier.id + self._key.sign(text.encode())
        return f"{text}\n\u2014 {self.name} {_encode(signature)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log promised: its first ``size`` entries have this root."""

    origin: str
    size: int
    root: bytes
    note: str
    """The signed note it was read from."""


def sign_checkpoint(signer: Signer, size: int, root: bytes) -> Checkpoint:
    """The origin is the key's name, as C2SP recommends."""
    note = signer.sign(f"{signer.name}\n{size}\n{_encode(root)}\n")
    return Checkpoint(origin=signer.name, size=size, root=root, note=note)


def open_checkpoint(note: str, verifiers: Collection[Verifier]) -> Checkpoint:
    """Read a checkpoint that one of ``verifiers`` signed.

    Signatures by others, such as witnesses, are passed over.

    Raises:
        ChainBrokenError: it is not a checkpoint, or none of them signed it.
    """
    try:
        text = _verified_text(note, verifiers)
        origin, size, root = _parse_body(text)
        # A key that signs for several logs must not lend one the words of another.
        if origin not in {verifier.name for verifier in verifiers}:
            raise ValueError(f"it speaks for {origin!r}")  # noqa: TRY301
    except ValueError as error:
        raise ChainBrokenError(
            f"cannot open checkpoint: {error}",
            seq=-1,
            expected=" or ".join(map(str, verifiers)),
            found=note[:300],
        ) from error
    return Checkpoint(origin=origin, size=size, root=root, note=note)


def _parse_body(text: str) -> tuple[str, int, bytes]:
    match = re.match(r"([^\n]+)\n(0|[1-9]\d{0,15})\n([^\n]+)\n", text)
    root = _decode(match[3]) if match else b""
    if match is None or len(root) != sha256().digest_size:
        raise ValueError("it is not origin, size and root")
    return match[1], int(match[2]), root


def _verified_text(note: str, verifiers: Collection[Verifier]) -> str:
    if len(note) > _MAX_NOTE or re.search(r"[\x00-\x09\x0b-\x1f]", note):
        raise ValueError("it is not a note")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise ValueError("it is not a note")
    text += "\n"
    known = {(verifier.name, verifier.id): verifier for verifier in verifiers}
    signed = False
    for line in signatures[:-1].split("\n"):
        match = re.fullmatch("\u2014 ([^\\s+]+) (\\S+)", line)
        raw = _decode(match[2]) if match else b""
        if match is None or len(raw) <= 4:  # noqa: PLR2004  the key's id
            raise ValueError("a line of it is no signature")
        verifier = known.get((match[1], raw[:4]))
        if verifier is None:
            continue
        if not verifier.accepts(text.encode(), raw[4:]):
            raise ValueError(f"the signature by {verifier.name} is not over this text")
        signed = True
    if not signed:
        raise ValueError("nobody known signed it")
    return text


def _parse_key(text: str) -> tuple[str, bytes, bytes]:
    match = re.fullmatch(r"([^\s+]+)\+([0-9a-f]{8})\+(\S+)", text)
    raw = _decode(match[3]) if match else b""
    if match is None or raw[:1] != _ED25519 or len(raw) != 33:  # noqa: PLR2004
        raise ValueError("cannot read key: it is not name+hash+key with Ed25519")
    return match[1], bytes.fromhex(match[2]), raw[1:]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{text[:80]!r} is not base64") from error
    # Bits that the encoding ignores would let two texts say the same.
    if _encode(data) != text:
        raise ValueError(f"{text[:80]!r} is not canonical base64")
    return data

"""A sealed envelope: bytes that only the right key opens, under the right name (pure).

The vault calls it. A fresh AES-256-GCM key encrypts the content; a key provider wraps
that key. The content's tag covers the item's name too, so that one item moved over
another does not open. Layout, all of it checked when opening:

    BUDSEAL1 | key id, 32 bytes | wrapped key, length in 2 bytes | nonce, 12 | content

Wrapping again under a new key leaves nonce and content as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from reconciler.secrets.keys import KeyProvider
from schemas.errors import PermanentError

__all__ = ["Envelope", "open_envelope", "rewrap", "seal"]

_MAGIC = b"BUDSEAL1"
_ID = 32
_NONCE = 12  # NIST SP 800-38D: 96 bits; a data key encrypts once, so it never repeats
_KEY_BITS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    key_id: bytes
    wrapped: bytes
    body: bytes
    """Nonce and ciphertext with its tag."""

    def __bytes__(self) -> bytes:
        length = len(self.wrapped).to_bytes(2)
        return _MAGIC + self.key_id + length + self.wrapped + self.body

    @classmethod
    def parse(cls, content: bytes) -> Envelope:
        head = len(_MAGIC) + _ID
        end = head + 2 + int.from_bytes(content[head : head + 2])
        if not content.startswith(_MAGIC) or len(content) <= end + _NONCE:
            raise _refused("it is no envelope")
        return cls(
            key_id=content[len(_MAGIC) : head],
            wrapped=content[head + 2 : end],
            body=content[end:],
        )


def seal(name: str, content: bytes, keys: KeyProvider, nonce: bytes) -> bytes:
    """Seal ``content`` as the item ``name``; ``nonce`` is 12 random bytes."""
    data_key = AESGCM.generate_key(_KEY_BITS)
    label = name.encode()
    key_id, wrapped = keys.wrap(data_key, label)
    body = nonce + AESGCM(data_key).encrypt(nonce, content, _MAGIC + label)
    return bytes(Envelope(key_id=key_id, wrapped=wrapped, body=body))


def open_envelope(name: str, sealed: bytes, keys: KeyProvider) -> bytes:
    """Open what was sealed as the item ``name``.

    Raises:
        PermanentError: one bit of it is not as it was sealed, or the key is missing.
    """
    envelope, label = Envelope.parse(sealed), name.encode()
    data_key = keys.unwrap(envelope.key_id, envelope.wrapped, label)
    nonce, ciphertext = envelope.body[:_NONCE], envelope.body[_NONCE:]
    try:
        return AESGCM(data_key).decrypt(nonce, ciphertext, _MAGIC + label)
    except InvalidTag as error:
        raise _refused("it is not as it was sealed") from error


def rewrap(name: str, sealed: bytes, keys: KeyProvider) -> bytes:
    """Wrap the data key under the provider's current key; the content stays."""
    envelope, label = Envelope.parse(sealed), name.encode()
    data_key = keys.unwrap(envelope.key_id, envelope.wrapped, label)
    key_id, wrapped = keys.wrap(data_key, label)
    return bytes(Envelope(key_id=key_id, wrapped=wrapped, body=envelope.body))


def _refused(found: str) -> PermanentError:
    return PermanentError(
        f"cannot open sealed item: {found}",
        hint="restore it from a backup, or obtain the secret anew",
    )

"""age identities: made here, used by SOPS (pure).

An identity is an X25519 key in Bech32 (BIP 173), as age-encryption.org/v1 writes it.
The caller brings the random bytes.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["identity", "recipient"]

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def identity(secret: bytes) -> str:
    """The secret key for a file: ``AGE-SECRET-KEY-1...``; ``secret`` is 32 bytes."""
    return _bech32("age-secret-key-", secret).upper()


def recipient(secret: bytes) -> str:
    """The public key that belongs to it: ``age1...``."""
    public = X25519PrivateKey.from_private_bytes(secret).public_key()
    raw = public.public_bytes(
        serialization.Encoding.Raw, serialization.PublicFormat.Raw
    )
    return _bech32("age", raw)


def _bech32(prefix: str, data: bytes) -> str:
    # 8-bit groups become 5-bit groups, the last one filled up with zeros.
    bits = int.from_bytes(data) << (-len(data) * 8 % 5)
    count = (len(data) * 8 + 4) // 5
    values = [bits >> 5 * (count - 1 - i) & 31 for i in range(count)]
    spread = [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix)]
    check = _polymod([*spread, *values, 0, 0, 0, 0, 0, 0]) ^ 1
    values += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def _polymod(values: list[int]) -> int:
    """Bech32's checksum, as BIP 173 defines it."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATOR):
            check ^= generator if top >> i & 1 else 0
    return check

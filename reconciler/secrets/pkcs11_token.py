"""A key in a hardware token, by PKCS #11 and its URI of RFC 7512 (I/O).

``pkcs11:token=T;object=O?module-path=LIBRARY&pin-source=FILE``: the PIN is in a file
that only its owner reads, never in the URI. OAEP is with SHA-1, which RFC 8017 has as
its default and which every token has; OAEP does not lean on collisions.
"""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from schemas.errors import PermanentError, TemporaryError

try:
    import pkcs11
except ImportError as error:
    raise PermanentError(
        "cannot use a PKCS #11 token: python-pkcs11 is not installed",
        hint="install bud with the extra pkcs11",
    ) from error

__all__ = ["TokenKey"]

_OAEP = (pkcs11.Mechanism.SHA_1, pkcs11.MGF.SHA1, None)


class TokenKey:
    def __init__(self, uri: str) -> None:
        path, _, query = uri.removeprefix("pkcs11:").partition("?")
        held = {
            k: unquote(v) for k, _, v in (p.partition("=") for p in path.split(";"))
        }
        held |= dict(parse_qsl(query))
        self._said = f"pkcs11:{path}"
        if lacks := {"token", "object", "module-path", "pin-source"} - held.keys():
            raise PermanentError(
                f"cannot use key {self._said}: no {', '.join(sorted(lacks))} in it"
            )
        self._token, self._object = held["token"], held["object"]
        self._library, self._pin = held["module-path"], Path(held["pin-source"])

    def wrap(self, data_key: bytes) -> bytes:
        return self._with(pkcs11.ObjectClass.PUBLIC_KEY, "encrypt", data_key)

    def unwrap(self, wrapped: bytes) -> bytes:
        return self._with(pkcs11.ObjectClass.PRIVATE_KEY, "decrypt", wrapped)

    def _with(self, kind: pkcs11.ObjectClass, verb: str, value: bytes) -> bytes:
        try:
            token = pkcs11.lib(self._library).get_token(token_label=self._token)
            with token.open(user_pin=self._read_pin()) as session:
                key = session.get_key(
                    object_class=kind,
                    key_type=pkcs11.KeyType.RSA,
                    label=self._object,
                )
                done = getattr(key, verb)(
                    value,
                    mechanism=pkcs11.Mechanism.RSA_PKCS_OAEP,
                    mechanism_param=_OAEP,
                )
                return bytes(done)
        except (
            pkcs11.exceptions.DeviceError,
            pkcs11.exceptions.DeviceRemoved,
        ) as error:
            raise TemporaryError(
                f"cannot {verb} with {self._said}: {error!r}"
            ) from error
        except (pkcs11.exceptions.PKCS11Error, RuntimeError) as error:
            raise PermanentError(
                f"cannot {verb} with {self._said}: {error!r}",
                hint="the token holds an RSA key pair of that label, and its PIN is right",
            ) from error

    def _read_pin(self) -> str:
        try:
            if stat.S_IMODE(self._pin.stat().st_mode) & 0o077:
                raise PermanentError(
                    f"cannot read PIN: others can read {self._pin}",
                    hint=f"chmod 600 {self._pin}",
                )
            return self._pin.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise PermanentError(
                f"cannot read PIN: {self._pin}: {error.strerror}"
            ) from error

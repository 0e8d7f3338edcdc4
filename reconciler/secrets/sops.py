"""Files in git that SOPS encrypts for age recipients (I/O).

Decrypted to memory and nowhere else: plaintext goes through pipes, the identity is
named to the child by a file, and the child sees no other environment. Every value of
a file is encrypted; its MAC covers all of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from shutil import which

import orjson
import yaml

from reconciler.secrets.age import identity, recipient
from reconciler.secrets.keys import private_file
from schemas.errors import PermanentError, TemporaryError

__all__ = ["CONFIG", "SopsFiles"]

CONFIG = ".sops.yaml"
"""SOPS' own name for it: whoever edits a file by hand gets the same recipients."""
_TIMEOUT_S = 30.0
_PUBLIC = "# public key: "
"""What age-keygen writes above each identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SopsFiles:
    """The encrypted files of one environment, in ``folder``."""

    folder: Path
    identity: Path
    """age identities, the newest first; the first that fits opens a file."""

    def initialise(self) -> str:
        """Make an identity and a rule for it, unless they are there; its recipient."""
        if not self.identity.exists():
            self._add_identity()
        if not self.recipients:
            self._allow([self._own()[0]])
        return self._own()[0]

    @property
    def recipients(self) -> list[str]:
        """Who may open what is encrypted from now on."""
        file = self.folder / CONFIG
        if not file.exists():
            return []
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))["creation_rules"]
        return [name.strip() for name in rules[0]["age"].split(",")]

    def names(self) -> tuple[str, ...]:
        found = self.folder.glob("*.yaml") if self.folder.exists() else ()
        return tuple(sorted(f.name for f in found if f.name != CONFIG))

    def encrypt(self, name: str, values: Mapping[str, str]) -> None:
        """Write ``values`` as the file ``name``, encrypted for every recipient."""
        kind = ("--input-type", "json", "--output-type", "yaml")
        # A name that the rule knows: the content comes through the pipe.
        arguments = ("encrypt", *kind, "--filename-override", str(self.folder / name))
        done = self._run(*arguments, given=orjson.dumps(dict(values)))
        private_file(self.folder / name, done)

    def decrypt(self, name: str) -> dict[str, str]:
        """Open one file, in memory.

        Raises:
            PermanentError: it is not there, not for us, or not as it was encrypted.
        """
        file = self.folder / name
        if (
            not file.resolve().is_relative_to(self.folder.resolve())
            or not file.is_file()
        ):
            raise PermanentError(f"cannot find secrets file: {name!r} in {self.folder}")
        opened = orjson.loads(self._run("decrypt", "--output-type", "json", str(file)))
        return {str(key): str(value) for key, value in opened.items()}

    def rotate(self) -> None:
        """A new identity, new data keys, and the old identity shut out.

        Safe to kill and to repeat: until the last file is done, both identities are
        kept, and each file opens with one of them.
        """
        old = [name for name in self._own() if name in self.recipients]
        self._add_identity()
        new = self._own()[0]
        others = [name for name in self.recipients if name not in old]
        self._allow([new, *others])
        for name in self.names():
            file = self.folder / name
            content = self.decrypt(name)
            self.encrypt(file.name, content)
        public, secret, *_ = self.identity.read_text(encoding="ascii").splitlines()
        private_file(self.identity, f"{public}\n{secret}\n".encode())

    def _own(self) -> list[str]:
        lines = self.identity.read_text(encoding="ascii").splitlines()
        return [
            line.removeprefix(_PUBLIC) for line in lines if line.startswith(_PUBLIC)
        ]

    def _add_identity(self) -> None:
        secret = token_bytes(32)
        made = f"{_PUBLIC}{recipient(secret)}\n{identity(secret)}\n"
        kept = self.identity.read_text("ascii") if self.identity.exists() else ""
        self.identity.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private_file(self.identity, (made + kept).encode())

    def _allow(self, recipients: list[str]) -> None:
        rule = {"path_regex": r"\.yaml$", "age": ",".join(recipients)}
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({"creation_rules": [rule]}, sort_keys=False, width=4096)
        (self.folder / CONFIG).write_text(text, encoding="utf-8")

    def _run(self, *arguments: str, given: bytes = b"") -> bytes:
        binary = os.environ.get("BUD_SOPS") or which("sops")
        if binary is None:
            raise PermanentError(
                "cannot run sops: it is not on PATH",
                hint="install SOPS 3.9 or newer, or name it in BUD_SOPS",
            )
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.identity.parent),
            "SOPS_AGE_KEY_FILE": str(self.identity),
        }
        verb, config = arguments[0], str(self.folder / CONFIG)
        try:
            done = subprocess.run(
                [binary, "--disable-version-check", "--config", config, *arguments],
                input=given,
                capture_output=True,
                env=environment,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TemporaryError(f"cannot {verb} with sops: no answer") from error
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[:400]
            raise PermanentError(
                f"cannot {verb} with sops: {said}",
                hint="it was changed by hand, or is not encrypted for this identity",
            )
        return done.stdout

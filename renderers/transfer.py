"""How weights and adapters get onto a cluster: images, commands, volumes, secrets.

``renderers.kubernetes`` calls it. Pure. A secret is only ever named here; its value
is filled in where it is written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import rfc8785

from schemas.errors import PermanentError
from schemas.kubernetes import SecretValues
from schemas.model import Model, ModelSource
from schemas.objects import Credential, FoundryObject, PodCredential

__all__ = ["Transfer", "claim_of", "gguf_pattern", "transfer"]

# vLLM's image carries `hf`, and is on the nodes anyway.
_HF_IMAGE = "docker.io/vllm/vllm-openai:v0.33.0"
_S3_IMAGE = "docker.io/amazon/aws-cli:2.31.0"
# Of a repository with many GGUF files, one is wanted, under the name that the
# engine's argv has.
_HF_FILE_SCRIPT = (
    'set -eu; hf download "$0" --revision="$1" --include="$3" --local-dir="$2"; '
    'ln -sf "$(find "$2" -name "$3" | sort | head -n 1)" "$2/$4"'
)
# The digest is of the one object that is fetched; a wrong one fails the job.
_S3_SCRIPT = (
    'set -eu; f="$1/${4:-$(basename "$0")}"; '
    "export AWS_SHARED_CREDENTIALS_FILE=/tmp/credentials; "
    'printf %s "${AWS_CREDENTIALS:-}" > "$AWS_SHARED_CREDENTIALS_FILE"; '
    'aws s3 cp "$0" "$f" ${3:+--endpoint-url "$3"}; '
    'echo "$2  $f" | sha256sum -c -'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    image: str
    command: tuple[str, ...]
    secret: SecretValues | None
    secret_env: str | None

    @property
    def digest(self) -> str:
        return hashlib.sha256(rfc8785.dumps([self.image, *self.command])).hexdigest()


def claim_of(model: Model) -> str:
    """Name the volume of these weights: other weights, another volume.

    Raises:
        PermanentError: no cluster can fetch them.
    """
    source = model.spec.source
    if source.hf is not None:
        revision = source.hf.revision
    elif source.s3 is not None:
        revision = source.s3.sha256
    else:
        raise _unreachable(model)
    return f"{model.metadata.name[:50]}-{revision[:12]}"


def gguf_pattern(precision: str) -> str:
    """Match the file of one precision among a repository's GGUF files."""
    name = {"fp16": "f16", "fp32": "f32"}.get(precision, precision)
    letters = (f"[{c.upper()}{c}]" if c.isalpha() else c for c in name)
    return f"*{''.join(letters)}*.gguf"


def transfer(
    owner: FoundryObject,
    source: ModelSource,
    into: str,
    *,
    file: str = "",
    pattern: str = "*.gguf",
) -> Transfer:
    """Say how ``source`` is fetched into the folder ``into``, from inside a cluster.

    ``file`` is the name of the one file that is wanted, where one is; ``pattern``
    finds it in a repository.

    Raises:
        PermanentError: no cluster can fetch it.
    """
    if source.hf is not None:
        repo, revision = source.hf.repo, source.hf.revision
        command: tuple[str, ...] = (
            *("hf", "download", repo, f"--revision={revision}", f"--local-dir={into}"),
        )
        if file:
            script = (_HF_FILE_SCRIPT, repo, revision, into, pattern, file)
            command = ("sh", "-c", *script)
        secret = _secret(owner, source.hf.credentials)
        return Transfer(
            image=_HF_IMAGE,
            command=command,
            secret=secret,
            secret_env="HF_TOKEN" if secret else None,
        )
    if source.s3 is not None:
        command = (
            *("sh", "-c", _S3_SCRIPT, source.s3.uri, into, source.s3.sha256),
            *((source.s3.endpoint or "", file)),
        )
        secret = _secret(owner, source.s3.credentials)
        return Transfer(
            image=_S3_IMAGE,
            command=command,
            secret=secret,
            secret_env="AWS_CREDENTIALS" if secret else None,
        )
    raise _unreachable(owner)


def _secret(
    owner: FoundryObject, credential: PodCredential | None
) -> SecretValues | None:
    if credential is None:
        return None
    external = credential.external_secret
    ours = credential.model_dump(mode="json", exclude={"external_secret"})
    # Two owners never share a Secret: pruning one must not starve the other.
    said = {"owner": owner.kind, **(external.model_dump() if external else ours)}
    digest = hashlib.sha256(rfc8785.dumps(said)).hexdigest()[:12]
    return SecretValues(
        name=f"{owner.metadata.name[:50]}-{digest}",
        credential=None if external else Credential.model_validate(ours),
        external=external,
    )


def _unreachable(owner: FoundryObject) -> PermanentError:
    return PermanentError(
        f"cannot render {owner.ref} for Kubernetes: its source is on this machine, "
        "where no cluster can fetch it",
        hint="put it on S3 or the hub, and name its digest or commit",
    )

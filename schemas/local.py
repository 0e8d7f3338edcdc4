"""What the local target is asked to hold: processes, and weights on this machine.

`renderers.local` writes these manifests as canonical JSON, the local target reads
them back; the bytes are the unit that a plan shows and a ledger digests. Nothing
in them depends on the machine: the Python, the port and the place of the weights
are placeholders, filled when a process starts.
"""

from __future__ import annotations

from functools import cached_property
from hashlib import sha256
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from schemas.model import ModelSource
from schemas.objects import Name, Sha256

__all__ = [
    "MODEL",
    "PORT",
    "PYTHON",
    "Adapter",
    "EndpointManifest",
    "ModelManifest",
    "Probe",
    "Program",
    "Replacement",
    "Weights",
    "canonical",
]

# An argument that is exactly one of these is replaced when a process starts; an
# argument that only contains one is left alone, because engines take JSON.
PYTHON, MODEL, PORT = "{python}", "{model}", "{port}"

Task = Literal["chat", "completion", "embedding"]
Seconds = Annotated[float, Field(ge=0)]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def canonical(manifest: BaseModel) -> bytes:
    """The one byte form of a manifest: sorted keys, no spaces, one last newline."""
    return orjson.dumps(
        manifest.model_dump(mode="json"),
        option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE,
    )


class Weights(_Manifest):
    """Which weights, and where they come from. The same ``id`` is the same files."""

    id: Sha256
    source: ModelSource
    format: Literal["safetensors", "gguf"]


class Adapter(_Manifest):
    """A LoRA adapter, served under its own name."""

    name: Name
    weights: Weights

    @property
    def placeholder(self) -> str:
        """The argument that becomes ``<name>=<place of the weights>``."""
        return f"{{adapter:{self.name}}}"


class Probe(_Manifest):
    """The real request that tells whether a replica answers."""

    task: Task
    model: str


class Program(_Manifest):
    """What one replica runs. Another program means another process."""

    engine: Literal["vllm", "sglang", "llamacpp", "simulator"]
    version: str | None = None
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    gpus: Annotated[int, Field(ge=0)] = 0
    weights: Sha256 | None = None
    form: Literal["as-is", "gguf"] = "as-is"
    """``gguf``: weights of another format are converted before the first start."""
    probe: Probe


class Replacement(_Manifest):
    """How processes come and go; changing it restarts nothing."""

    strategy: Literal["rolling", "recreate"] = "rolling"
    max_surge: Annotated[int, Field(ge=1)] = 1
    floor: Annotated[int, Field(ge=0)] | None = None
    ready_timeout_s: Seconds
    drain_timeout_s: Seconds


class EndpointManifest(_Manifest):
    """An Endpoint as supervised processes."""

    manifest: Literal["endpoint/1"] = "endpoint/1"
    project: Name
    name: Name
    replicas: Annotated[int, Field(ge=0)]
    program: Program
    replacement: Replacement
    weights: Weights | None = None
    adapters: tuple[Adapter, ...] = ()

    @cached_property
    def revision(self) -> str:
        """Names what a replica runs; replicas of one revision are alike."""
        return sha256(canonical(self.program)).hexdigest()[:16]


class ModelManifest(_Manifest):
    """A Model as files on this machine."""

    manifest: Literal["model/1"] = "model/1"
    project: Name
    name: Name
    weights: Weights
    licence: str

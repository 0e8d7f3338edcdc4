"""Model: weights that never change under their name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.architecture import Architecture, architecture_from_config
from schemas.objects import (
    FoundryObject,
    Name,
    PodCredential,
    Refers,
    Sha256,
    Strict,
)

if TYPE_CHECKING:  # the catalog is an argument
    from schemas.catalog import Catalog

__all__ = ["Model", "ModelSource", "ModelSpec", "PackageSource", "Precision"]

Precision = Literal[
    "fp32", "bf16", "fp16", "fp8", "int8", "int4", "fp4", "q8_0", "q4_k_m"
]
CommitSha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]


class HfSource(Strict):
    repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: CommitSha = Field(
        description="the commit's full SHA: a branch or tag can move under the name"
    )
    credentials: PodCredential | None = None


class S3Source(Strict):
    uri: Annotated[str, StringConstraints(pattern=r"^s3://[a-z0-9.-]{3,63}/\S+$")]
    sha256: Sha256
    endpoint: str | None = None
    credentials: PodCredential | None = None


class PathSource(Strict):
    path: str
    sha256: Sha256 | None = Field(
        default=None, description="of the file; of a folder, see `bud model digest`"
    )


class PackageSource(Strict):
    """Weights inside Python packages: ``parts`` are joined in order, or the tree
    under ``root`` is taken as it is."""

    name: str
    version: str
    parts: tuple[str, ...] = Field(
        default=(), description="packages whose data files are joined into one file"
    )
    root: str | None = Field(default=None, description="folder inside the package")
    sha256: Sha256

    @model_validator(mode="after")
    def _parts_or_root(self) -> Self:
        if bool(self.parts) == (self.root is not None):
            raise ValueError("name parts (one joined file) or root (a folder)")
        return self


class ModelSource(Strict):
    hf: HfSource | None = None
    s3: S3Source | None = None
    path: PathSource | None = None
    package: PackageSource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(v is not None for v in (self.hf, self.s3, self.path, self.package)) != 1:
            raise ValueError("name exactly one of hf, s3, path, package")
        return self

    @property
    def credentials(self) -> PodCredential | None:
        fetched = self.hf or self.s3
        return None if fetched is None else fetched.credentials


class Licence(Strict):
    id: str = Field(
        description="SPDX identifier, or the catalog's name for other terms"
    )
    accepted: bool = Field(
        default=False, description="a person has read terms that ask for acceptance"
    )


class ModelSpec(Strict):
    source: ModelSource
    task: Literal["chat", "completion", "embedding"] = "chat"
    format: Literal["safetensors", "gguf"] = "safetensors"
    architecture: str | None = Field(
        default=None,
        description="a model of the catalog; left out, it is found by the source's name",
    )
    config: dict[str, Any] | None = Field(
        default=None,
        description="for a model that no catalog has, what shapes it in its "
        "config.json; see `bud optimizer config`",
    )
    precision: Precision
    licence: Licence
    scan: Literal["require", "warn", "off"] = "require"
    trust_remote_code: bool = False
    prefetch: Annotated[tuple[Name, ...], Refers("Cluster")] = Field(
        default=(), description="clusters that get the weights before an endpoint does"
    )

    @model_validator(mode="after")
    def _has_an_architecture(self) -> Self:
        if self.config is not None:
            if self.architecture is not None:
                raise ValueError("say one of architecture and config: both name it")
            return self
        if self.architecture is None and self.source.hf is None:
            raise ValueError("architecture is needed: the source does not name a model")
        return self

    @property
    def architecture_id(self) -> str:
        if self.architecture is not None:
            return self.architecture
        if self.source.hf is not None:
            return self.source.hf.repo
        assert self.config is not None, "checked by _has_an_architecture"
        return "its own config"

    def shape(self, catalog: Catalog) -> Architecture:
        """What it is built like.

        Raises:
            PermanentError: the catalog does not know it.
            SpecError: its own config does not say enough.
        """
        if self.config is not None:
            return architecture_from_config(self.config, file="spec.config")
        return catalog.models.find(self.architecture_id).architecture


class Model(FoundryObject):
    kind: Literal["Model"]
    spec: ModelSpec

"""What every declared object has in common. Every kind builds on this file.

An object is ``apiVersion``, ``kind``, ``metadata`` and ``spec``. Unknown fields
are errors, scalars are never coerced (``"1"`` is not 1), and a validated object
never changes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

__all__ = [
    "API_VERSION",
    "DEFAULT_PROJECT",
    "Credential",
    "ExternalSecret",
    "FoundryObject",
    "Labels",
    "Metadata",
    "Name",
    "PodCredential",
    "Ref",
    "Refers",
    "Sha256",
    "Strict",
]

API_VERSION = "foundry.bud/v1"
DEFAULT_PROJECT = "default"

# RFC 1123 labels: a name becomes a Kubernetes object, a DNS name and a file name.
Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
]
# Kubernetes' own limits for label keys and values.
LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
    ),
]
LabelValue = Annotated[
    str,
    StringConstraints(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"),
]
Labels = dict[LabelKey, LabelValue]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Strict(BaseModel):
    """A value of the spec: camelCase when written, frozen, nothing unknown."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        strict=True,
        serialize_by_alias=True,
        validate_default=True,
    )


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """The identity of one object: ``Endpoint/default/chat``."""

    kind: str
    project: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.project}/{self.name}"

    @classmethod
    def parse(cls, text: str, *, project: str = DEFAULT_PROJECT) -> Self:
        """Read ``Kind/name`` or ``Kind/project/name``.

        Raises:
            ValueError: the text is neither.
        """
        match = re.fullmatch(r"([A-Za-z]+)/(?:([a-z0-9-]+)/)?([a-z0-9-]+)", text)
        if match is None:
            raise ValueError(
                f"cannot read {text!r} as an object: write Kind/name or Kind/project/name"
            )
        return cls(match[1], match[2] or project, match[3])


@dataclass(frozen=True, slots=True)
class Refers:
    """Marks a field that holds the name of another object, or names of them."""

    kind: str


class Metadata(Strict):
    name: Name
    project: Name = DEFAULT_PROJECT
    labels: Labels = {}
    annotations: dict[LabelKey, str] = {}


class Credential(Strict):
    """Where a secret is, never the secret: an environment variable, a file that
    only the reader can open, or a key of a file encrypted with SOPS."""

    env: Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    file: str | None = None
    secret: (
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9./-]+#[\w.-]+$")] | None
    ) = Field(default=None, description="path of a SOPS file, then '#', then its key")

    @model_validator(mode="before")
    @classmethod
    def _no_operator_here(cls, value: Any) -> Any:
        known = "external_secret" in cls.model_fields
        if not known and isinstance(value, dict) and "externalSecret" in value:
            raise ValueError(
                "externalSecret is for what pods on a cluster read, and this is read "
                "where bud runs: name env, file or secret"
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        forms = type(self).model_fields
        if sum(getattr(self, form) is not None for form in forms) != 1:
            raise ValueError(f"name exactly one of {', '.join(map(to_camel, forms))}")
        return self


class ExternalSecret(Strict):
    """A value of a store that the External Secrets Operator reads, on the cluster."""

    store: Name
    store_kind: Literal["ClusterSecretStore", "SecretStore"] = Field(
        default="ClusterSecretStore",
        description="a SecretStore lies in the namespace of the project's workloads",
    )
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    property: (
        Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None
    ) = Field(default=None, description="of a value that is a map, one entry")


class PodCredential(Credential):
    """A secret that pods read too: bud writes it there, or the cluster's operator."""

    external_secret: ExternalSecret | None = Field(
        default=None, description="where secrets are kept elsewhere; bud never sees it"
    )


class FoundryObject(Strict):
    """The envelope; each kind narrows ``kind`` and ``spec``."""

    api_version: Literal["foundry.bud/v1"]
    kind: str
    metadata: Metadata
    spec: Any

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.metadata.project, self.metadata.name)

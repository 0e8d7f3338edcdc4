"""Project, ApiKey, Policy: who may use what, and what a plan must keep."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from schemas.objects import FoundryObject, Name, Refers, Strict
from schemas.route import Limits
from schemas.units import Duration, Money

__all__ = ["ApiKey", "ApiKeySpec", "Policy", "PolicySpec", "Project", "ProjectSpec"]


def _instant(value: Any) -> Any:
    """YAML has timestamps of its own and JSON has none: both read the same."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise ValueError(
                f"cannot read {value!r} as a time: write it as 2027-01-31T00:00:00Z"
            ) from error
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("a time needs its zone: write it as 2027-01-31T00:00:00Z")
    return value


Instant = Annotated[datetime, BeforeValidator(_instant)]


class Quota(Strict):
    gpus: Annotated[int, Field(ge=0)] | None = None
    cost_per_month: Money | None = None


class ProjectSpec(Strict):
    description: str = ""
    owners: tuple[str, ...] = Field(default=(), description="forge user or team names")
    quota: Quota = Quota()
    budget_per_month: Money | None = Field(
        default=None, description="what its callers may spend at the gateway"
    )
    limits: Limits = Limits()


class Project(FoundryObject):
    kind: Literal["Project"]
    spec: ProjectSpec


class ApiKeySpec(Strict):
    """A key's hash; the key itself is shown once, by ``bud keys create``."""

    hash: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    routes: Annotated[tuple[Name, ...], Refers("Route")] = Field(
        default=(), description="left out, every route of the project"
    )
    limits: Limits = Limits()
    budget_per_month: Money | None = None
    expires: Instant | None = None
    disabled: bool = False


class ApiKey(FoundryObject):
    kind: Literal["ApiKey"]
    spec: ApiKeySpec


class Window(Strict):
    """When changes may be applied, in UTC."""

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...]
    start: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
    length: Duration


class Expression(Strict):
    """A rule in CEL over the plan document: true means that the rule is broken."""

    broken_if: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    message: str


class PolicyRules(Strict):
    max_cost_per_month: Money | None = None
    max_cost_increase_percent: Annotated[int, Field(ge=0, le=10_000)] | None = None
    max_gpus: Annotated[int, Field(ge=0)] | None = None
    regions: tuple[str, ...] = ()
    licences: tuple[str, ...] = Field(
        default=(), description="licences models may have"
    )
    approvals: Annotated[int, Field(ge=0, le=10)] | None = None
    windows: tuple[Window, ...] = ()
    max_delete_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    sources: tuple[str, ...] = Field(
        default=(),
        description="where weights may come from, such as hf:meta-llama/*; * matches",
    )
    deletes: tuple[str, ...] = Field(
        default=(), description="kinds whose deletion breaks it; * is any"
    )
    slo_worse: bool = Field(
        default=False, description="a predicted SLO that gets worse breaks it"
    )
    wider_access: bool = Field(
        default=False, description="letting in whoever was not in before breaks it"
    )
    expressions: tuple[Expression, ...] = Field(
        default=(), description="CEL over the plan document"
    )


class PolicySpec(Strict):
    effect: Literal["deny", "warn", "approve"] = "deny"
    approvers: tuple[str, ...] = ()
    projects: tuple[Name, ...] = Field(
        default=(), description="left out, every project"
    )
    environments: tuple[Name, ...] = ()
    rules: PolicyRules

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.rules.model_fields_set:
            raise ValueError("rules is empty: a policy that limits nothing misleads")
        if (self.effect == "approve") != bool(self.approvers):
            raise ValueError("approvers belong to effect approve, which needs them")
        return self


class Policy(FoundryObject):
    kind: Literal["Policy"]
    spec: PolicySpec

"""Review: the forge where changes are proposed, and when a plan may be applied.

Part of an Environment. What counts is what the protected branch says; a pull
request cannot change by which rules it is judged.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.objects import Credential, Strict
from schemas.units import Duration

__all__ = ["ForgeApp", "ForgeSettings", "Review"]

HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]+[^\s@/]$")]


class ForgeApp(Strict):
    """A GitHub App: it gets short-lived tokens for one installation."""

    id: Annotated[int, Field(ge=1)]
    installation: Annotated[int, Field(ge=1)]
    key: Credential


class ForgeSettings(Strict):
    kind: Literal["gitea", "github", "gitlab"]
    url: HttpUrl = Field(
        description="of the API: https://git.example/api/v1, https://api.github.com, "
        "https://gitlab.example/api/v4"
    )
    repository: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)+$")
    ]
    token: Credential | None = None
    app: ForgeApp | None = None
    webhook_secret: Credential

    @model_validator(mode="after")
    def _knows_how_to_log_in(self) -> Self:
        if (self.token is None) == (self.app is None):
            raise ValueError("name exactly one of token, app")
        if self.app is not None and self.kind != "github":
            raise ValueError(f"app belongs to github, not to {self.kind}")
        return self


class Review(Strict):
    forge: ForgeSettings
    expires: Duration = Duration("72h")
    fork_label: str = Field(
        default="bud/plan", description="lets a fork be planned once"
    )
    poll: Duration = Field(
        default=Duration("60s"), description="for what no webhook told"
    )
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="of webhooks; 0: none, only polling"
    )
    public_url: HttpUrl | None = Field(
        default=None, description="where people reach that port: links in comments"
    )

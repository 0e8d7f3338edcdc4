"""Notification: who is told of what, and where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.objects import Credential, FoundryObject, Strict

__all__ = ["Notification", "NotificationSpec"]


class NotificationSpec(Strict):
    """``to`` is an Apprise URL (slack://..., mailtos://..., jsons://...): it names the
    channel and holds its password, so it is a reference and never a value."""

    to: Credential
    events: Annotated[
        tuple[Literal["plan", "apply", "drift", "failure", "rollback"], ...],
        Field(min_length=1),
    ]


class Notification(FoundryObject):
    kind: Literal["Notification"]
    spec: NotificationSpec

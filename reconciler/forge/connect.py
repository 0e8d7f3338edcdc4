"""From what an environment says of its forge to a client of it (I/O: credentials)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime

from reconciler.forge.api import Api
from reconciler.forge.base import Forge
from reconciler.forge.gitea import Gitea
from reconciler.forge.github import AppLogin, GitHub
from reconciler.forge.gitlab import GitLab
from schemas.objects import Credential
from schemas.review import ForgeSettings, Review

__all__ = ["open_forge", "visit"]


def open_forge(
    settings: ForgeSettings,
    read: Callable[[Credential], str],
    clock: Callable[[], datetime],
) -> Forge:
    """``read`` opens a credential, in memory.

    Raises:
        PermanentError: a credential is not there.
    """
    if settings.app is not None:
        login = AppLogin(settings.url, settings.app, read(settings.app.key), clock)
        return GitHub(Api(settings.url, login), settings.repository, app=login)
    assert settings.token is not None, "the schema asks for one of the two"
    token = read(settings.token)

    async def headers() -> Mapping[str, str]:
        if settings.kind == "gitlab":
            return {"PRIVATE-TOKEN": token}
        word = "token" if settings.kind == "gitea" else "Bearer"
        return {"Authorization": f"{word} {token}"}

    api = Api(settings.url, headers)
    match settings.kind:
        case "gitea":
            return Gitea(api, settings.repository)
        case "github":
            return GitHub(api, settings.repository)
        case "gitlab":
            return GitLab(api, settings.repository)


@asynccontextmanager
async def visit(
    review: Review | None,
    read: Callable[[Credential], str],
    clock: Callable[[], datetime],
) -> AsyncIterator[Forge | None]:
    """The forge for the length of a block; None where an environment names none."""
    if review is None:
        yield None
        return
    forge = open_forge(review.forge, read, clock)
    try:
        yield forge
    finally:
        await forge.close()

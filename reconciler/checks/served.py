"""What may be written and what the gateway serves are not yet the same.

Pure; ``check`` calls it. A field that would be accepted and then do nothing is
refused by its name: whoever names a provider must not believe that it answers.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.checks.whole import Whole
from schemas.errors import Problem
from schemas.route import Provider, Route

__all__ = ["check_served"]

_DIALECTS = {"openai", "azure-openai", "anthropic"}
_MODERATES = {"openai", "azure-openai"}


def check_served(whole: Whole) -> Iterator[Problem]:
    for route in whole.each(Route):
        yield from _judges(whole, route)
    for provider in whole.each(Provider):
        dialect = provider.spec.dialect
        if dialect not in _DIALECTS:
            yield whole.problem(
                provider,
                "spec.dialect",
                f"cannot speak {dialect!r}: the gateway does not know it yet",
                f"one of {', '.join(sorted(_DIALECTS))}",
            )


def _judges(whole: Whole, route: Route) -> Iterator[Problem]:
    """Who judges for a route must be able to."""
    for index, rail in enumerate(route.spec.guardrails):
        judge = rail.moderation and whole.find(route, Provider, rail.moderation)
        if judge and judge.spec.dialect not in _MODERATES:
            yield whole.problem(
                route,
                f"spec.guardrails[{index}].moderation",
                f"cannot ask {judge.spec.dialect!r} for a judgement: it has no "
                "moderations",
                f"a provider that speaks one of {', '.join(sorted(_MODERATES))}",
            )

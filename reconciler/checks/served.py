"""What may be written must be what the gateway can serve.

Pure; ``check`` calls it. A field that would be accepted and then do nothing is
refused by its name: whoever names a judge must not believe that it judges.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.checks.whole import Whole
from schemas.errors import Problem
from schemas.route import Provider, Route

__all__ = ["check_served"]

_MODERATES = {"openai", "azure-openai"}


def check_served(whole: Whole) -> Iterator[Problem]:
    for route in whole.each(Route):
        yield from _judges(whole, route)


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

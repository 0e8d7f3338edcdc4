"""What may be written and what the gateway serves are not yet the same.

Pure; ``check`` calls it. A field that would be accepted and then do nothing is
refused by its name: whoever writes a guardrail must not believe in one that is
not there.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.checks.whole import Whole
from schemas.errors import Problem
from schemas.route import Provider, Route

__all__ = ["check_served"]

_DIALECTS = {"openai", "azure-openai", "anthropic"}


def check_served(whole: Whole) -> Iterator[Problem]:
    for route in whole.each(Route):
        unserved = {
            "spec.cache": route.spec.cache is not None,
            "spec.guardrails": bool(route.spec.guardrails),
        }
        for field, said in unserved.items():
            if said:
                what = field.rpartition(".")[2]
                yield whole.problem(
                    route,
                    field,
                    f"cannot serve {what}: the gateway does not know it yet",
                    "leave it out",
                )
    for provider in whole.each(Provider):
        dialect = provider.spec.dialect
        if dialect not in _DIALECTS:
            yield whole.problem(
                provider,
                "spec.dialect",
                f"cannot speak {dialect!r}: the gateway does not know it yet",
                f"one of {', '.join(sorted(_DIALECTS))}",
            )

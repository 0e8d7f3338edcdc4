"""Keys and policies: each key is one key, each policy guards what it names.

Pure; ``check`` calls it.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.checks.whole import Whole
from reconciler.written import did_you_mean
from schemas.access import ApiKey, Policy, Project
from schemas.errors import Problem
from schemas.objects import DEFAULT_PROJECT, Ref

__all__ = ["check_access"]


def check_access(whole: Whole) -> Iterator[Problem]:
    yield from _keys_differ(whole)
    for policy in whole.each(Policy):
        yield from _policy_guards_something(whole, policy)


def _keys_differ(whole: Whole) -> Iterator[Problem]:
    first: dict[str, Ref] = {}
    for key in whole.each(ApiKey):
        other = first.setdefault(key.spec.hash, key.ref)
        if other != key.ref:
            yield whole.problem(
                key,
                "spec.hash",
                f"cannot use one key twice: {other} has the same hash",
                "make another with `bud keys create`",
            )


def _policy_guards_something(whole: Whole, policy: Policy) -> Iterator[Problem]:
    """A guard with a typo in its name guards nothing, and nobody would notice."""
    projects = {DEFAULT_PROJECT, *(p.metadata.name for p in whole.each(Project))}
    for field, noun, names, known in (
        ("projects", "project", policy.spec.projects, projects),
        ("environments", "environment", policy.spec.environments, whole.environments),
    ):
        for i, name in enumerate(names):
            if name not in known:
                yield whole.problem(
                    policy,
                    f"spec.{field}[{i}]",
                    f"cannot find {noun} {name!r}",
                    did_you_mean(
                        name, known, otherwise=f"there are: {', '.join(sorted(known))}"
                    ),
                )

"""Rules that no object can break alone: what one says of another. Pure.

``overlay`` runs them over everything an environment wants, once every reference
was looked up. A rule is a generator of its own and none stops another; where an
object it needs is broken or missing, that is said elsewhere and the rule is quiet.
"""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.checks.access import check_access
from reconciler.checks.clusters import check_clusters
from reconciler.checks.endpoints import check_endpoints
from reconciler.checks.models import check_models
from reconciler.checks.routes import check_routes
from reconciler.checks.served import check_served
from reconciler.checks.whole import Whole
from schemas.errors import Problem

__all__ = ["Whole", "check"]


def check(whole: Whole) -> Iterator[Problem]:
    """Yield everything wrong between the objects of one environment."""
    yield from check_clusters(whole)
    yield from check_models(whole)
    yield from check_endpoints(whole)
    yield from check_routes(whole)
    yield from check_access(whole)
    yield from check_served(whole)

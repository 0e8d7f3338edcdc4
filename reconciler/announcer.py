"""What a daemon says of its looks and runs: to its log, and to who wants to know.

``Reconciler`` alone uses it. Nothing is said twice: a look that finds what the last one
found is silent. It decides nothing, and a channel that fails is not its business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog

from reconciler.plan import Plan, Waits
from reconciler.values import Outcome, OutcomeKind
from schemas.errors import FoundryError, SpecError

__all__ = ["Announcer", "Tell"]

_log = structlog.get_logger("daemon")
_TOLD = 20
"""Objects of one message at most; the log has all of them."""

Tell = Callable[[str, str], Awaitable[None]]
"""(event, text): sends it to whoever wants to know."""


class Announcer:
    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._said: object = None
        self._drifted: tuple[str, ...] = ()

    def planned(self, made: Plan) -> None:
        """To the log: what changed since the last look."""
        said = (made.commit.sha, made.canonical() if not made.empty else made.blocked)
        if said == self._said:
            return
        self._said = said
        _log.info(
            "planned",
            commit=made.commit.short,
            steps=len(made.steps),
            blocked=len(made.blocked),
            unchanged=made.unchanged,
        )
        for item in made.blocked:
            if item.waits is not Waits.IN_HAND:
                _log.warning(
                    "waits", object=str(item.key), reason=item.waits, detail=item.detail
                )
        for drift in made.drift:
            _log.warning("drifted", object=str(drift.key), detail=drift.detail)

    async def failed(self, error: FoundryError, said: str) -> None:
        """Nothing could be planned; ``said`` is the error without its secrets."""
        if said == self._said:
            return
        self._said = said
        problems = len(error.problems) if isinstance(error, SpecError) else 1
        _log.error("cannot plan", problems=problems, error=said)
        await self._send("failure", said)

    async def drift(self, made: Plan) -> None:
        """Each set of drifted objects once."""
        drifted = tuple(str(drift.key) for drift in made.drift)
        if drifted and drifted != self._drifted:
            await self._send("drift", ", ".join(drifted[:_TOLD]))
        self._drifted = drifted

    async def decided(self, said: Iterable[str]) -> None:
        """What people decided; of it, rollbacks are news to all."""
        for decision in said:
            if decision.startswith("rollback"):
                await self._send("rollback", decision)

    async def applied(self, made: Plan, outcomes: Iterable[Outcome]) -> None:
        failed = [o for o in outcomes if o.kind is OutcomeKind.FAILED]
        lines = [f"plan {made.digest[:12]} of {made.commit.short}"]
        lines += [f"{o.key}: {o.error}" for o in failed[:_TOLD]]
        await self._send("failure" if failed else "apply", "\n".join(lines))

    async def _send(self, event: str, text: str) -> None:
        if self._tell is not None:
            await self._tell(event, text)

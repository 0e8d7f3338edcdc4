"""What of an environment is this process's to drive, and what is in hand elsewhere.

The pipeline asks it; `Replica` is the share of one of several daemons. It decides
nothing: what is in hand is left out of a plan, and so is what leans on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from reconciler.ordering import Waits
from reconciler.values import Key

__all__ = ["Alone", "Share", "in_hand_elsewhere"]


class Share(Protocol):
    def drives(self, target: str) -> bool:
        """Whether this process writes there; "" stands for what people decided."""
        ...

    async def settle(self, targets: Collection[str], in_hand: Collection[Key]) -> None:
        """Give up what is another's now, but where something is in hand, and take what
        is ours by now."""
        ...


class Alone:
    """Everything, for as long as the process leads."""

    def drives(self, target: str) -> bool:  # noqa: ARG002 - the protocol's
        return True

    async def settle(self, targets: Collection[str], in_hand: Collection[Key]) -> None:
        """Nothing is another's."""


def in_hand_elsewhere(
    keys: Collection[Key], drives: Callable[[str], bool], in_hand: Collection[Key]
) -> dict[Key, tuple[Waits, str]]:
    """What a plan must leave alone, because another daemon or plan is at it."""
    found = {
        key: (Waits.IN_HAND, "another replica drives it")
        for key in keys
        if not drives(key.target)
    }
    mine = (Waits.IN_HAND, "an earlier plan is still at it")
    return found | dict.fromkeys(in_hand, mine)

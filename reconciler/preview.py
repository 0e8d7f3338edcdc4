"""Preview: ask targets what the steps of a plan would do below them (I/O).

The pipeline calls it between plan and apply. A Cluster is one step of ours and a
hundred resources of a cloud; whoever approves the step must see which of those are
made, replaced and destroyed. What a target would refuse is part of the plan too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from reconciler.ordering import Step
from reconciler.plan import Plan, previewed
from reconciler.targets.base import Previewing, Target
from reconciler.values import Action, Key, Preview
from schemas.errors import FoundryError

__all__ = ["preview"]


async def preview(
    targets: Mapping[str, Target], made: Plan, mask: Callable[[str], str]
) -> Plan:
    """The plan with what its targets say of it; ``mask`` takes secrets out."""
    tasks: dict[Key, asyncio.Task[Preview | None]] = {}
    async with asyncio.TaskGroup() as group:
        for step in made.steps:
            target = targets.get(step.key.target)
            writes = step.change.action not in (Action.ADOPT, Action.FORGET)
            if writes and isinstance(target, Previewing):
                tasks[step.key] = group.create_task(_ask(target, step, mask))
    said = {key: task.result() for key, task in tasks.items()}
    return previewed(made, {k: found for k, found in said.items() if found is not None})


async def _ask(
    target: Previewing, step: Step, mask: Callable[[str], str]
) -> Preview | None:
    try:
        return await target.preview(step.change)
    except FoundryError as error:
        return Preview(summary="refused", refused=mask(error.args[0]))

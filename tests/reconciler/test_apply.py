"""What applying does with a refusal that an earlier step of the plan may lift."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.values import Change, OutcomeKind
from schemas.errors import TemporaryError
from tests.reconciler.engine.world import World, key_of

ENDPOINT = key_of("Endpoint/chat")


@pytest.mark.parametrize("lifted", [True, False])
def test_what_an_earlier_step_brings_is_asked_for_again(
    tmp_path: Path, *, lifted: bool
) -> None:
    """An add-on brings the kinds that an endpoint is made of."""
    world = World(tmp_path)
    world.desired["Model/small"] = ("one", ())
    world.desired["Endpoint/chat"] = ("one", ("Model/small",))
    world.target.refuse(ENDPOINT, TemporaryError("cannot find kind LeaderWorkerSet"))

    def bring(change: Change) -> None:
        if lifted and change.key != ENDPOINT:
            world.target.refuse(ENDPOINT, None)

    world.target.after_write = bring
    outcomes = {outcome.key: outcome for outcome in world.run()}
    world.close()

    wanted = OutcomeKind.CREATED if lifted else OutcomeKind.FAILED
    assert outcomes[ENDPOINT].kind is wanted
    assert ("LeaderWorkerSet" in outcomes[ENDPOINT].error) is not lifted

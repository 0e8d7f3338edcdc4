import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.reconciler.targets.kubernetes.foundry import World, furnish, world_of
from tests.reconciler.targets.kubernetes.plane import Plane, missing, plane

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One real control plane for all tests of this process."""
    if absent := missing():
        said = f"no {', '.join(absent)}: run `make tools`"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    folder: Path = tmp_path_factory.mktemp("plane")
    with plane(folder) as running:
        furnish(running)
        yield running


@pytest.fixture
async def world(control_plane: Plane) -> AsyncIterator[World]:
    """A target on that control plane, in a namespace and under an owner of its own."""
    async with world_of(control_plane, f"t{next(_numbers)}") as made:
        yield made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One control plane, one worker: starting a second costs more than it saves."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("kubernetes"))

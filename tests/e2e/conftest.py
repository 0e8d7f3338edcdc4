from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.team import Team, down_at_the_end


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    with down_at_the_end(tmp_path / "team") as made:
        yield made

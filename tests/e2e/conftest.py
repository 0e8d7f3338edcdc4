from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.team import Team


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    root = tmp_path / "team"
    root.mkdir()
    made = Team(root)
    yield made
    if made.home.exists():
        made.bud("down")
    assert made.engines() == {}

"""What a verb says while it works goes to the stderr of the moment."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path

import pytest
import structlog

from reconciler.cli.context import Context


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_log_outlives_the_stderr_it_was_started_with() -> None:
    context = Context(
        repo=Path(), environment="local", state=None, as_json=False, level="info"
    )
    lent, own = io.StringIO(), io.StringIO()
    with redirect_stderr(lent):
        context.start_log(str)
    lent.close()
    with redirect_stderr(own):
        structlog.get_logger().info("applied")
    assert '"event": "applied"' in own.getvalue()

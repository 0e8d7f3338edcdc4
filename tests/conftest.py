"""Options and fixtures that every test may use."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings

# How long an example takes says more about the machine's other users than about us.
settings.register_profile("foundry", deadline=None)
settings.load_profile("foundry")
# A shell's background job ignores interrupts, and so would all that it starts: a test
# that interrupts a child would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the code says now into the expected files; read the diff",
    )


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))

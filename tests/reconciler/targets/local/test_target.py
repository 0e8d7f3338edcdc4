"""The local target keeps the contract with real processes."""

import pytest

from tests.reconciler.targets.contract import TargetContract


@pytest.mark.slow
class TestLocal(TargetContract):
    pass

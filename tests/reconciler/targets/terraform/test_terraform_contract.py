"""The terraform target keeps the contract of all targets, on the real binaries."""

import pytest

from tests.reconciler.targets.contract import TargetContract

pytestmark = pytest.mark.slow


class TestTerraformContract(TargetContract):
    pass

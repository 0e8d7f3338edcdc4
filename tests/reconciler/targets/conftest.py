"""Makes the asserts of the shared suite explain themselves."""

import pytest

pytest.register_assert_rewrite("tests.reconciler.targets.contract")

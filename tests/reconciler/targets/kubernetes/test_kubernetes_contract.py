"""The Kubernetes target is held to the suite of all targets, on a real API server."""

from tests.reconciler.targets.contract import TargetContract


class TestKubernetes(TargetContract):
    """Each test runs in a namespace of its own."""

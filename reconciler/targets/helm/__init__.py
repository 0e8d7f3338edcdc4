"""Releases of other people's charts on one cluster: its add-ons."""

from reconciler.targets.helm.charts import Charts
from reconciler.targets.helm.target import HelmTarget

__all__ = ["Charts", "HelmTarget"]

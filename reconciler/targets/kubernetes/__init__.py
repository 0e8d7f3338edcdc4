"""Kubernetes: one cluster as a target. ``target`` is where to start reading."""

from reconciler.targets.kubernetes.client import Access, Client
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.sandbox import find_helm
from reconciler.targets.kubernetes.target import KubernetesTarget

__all__ = [
    "Access",
    "Client",
    "KubernetesTarget",
    "Renderer",
    "find_helm",
]

"""Resolution: what was left open in an Endpoint, filled. Renderers read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Resolution"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What the optimizer chose for one endpoint; pinned in the lock file."""

    cluster: str
    node_pool: str
    gpu: str | None
    tensor: int
    pipeline: int
    data: int
    expert: int
    max_batch: int
    context: int
    precision: str
    replicas: int | None
    """None under an autoscaler: the number is not ours to write."""
    chunk: int | None = None
    """Tokens an engine takes into one step; None is the engine's own default."""
    prediction: Mapping[str, float] = field(default_factory=dict)
    """ttft_ms, tpot_ms, tokens_per_s, memory_gib ... with ``_lo`` and ``_hi``; of
    ``concurrency`` requests at once on a replica."""
    rehearsal: Mapping[str, float] = field(default_factory=dict)
    """concurrency, ttft_ms and tpot_ms that a simulator plays: as first decided, so
    that scaling changes no argv of what runs."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return 0 if self.gpu is None else self.tensor * self.pipeline * self.data

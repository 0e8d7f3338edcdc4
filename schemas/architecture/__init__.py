"""What a model is made of, read from its config.json. Pure: no files, no hub.

The memory model, the performance model and the validator of Model and Endpoint
call it. It never guesses silently: what it had to assume it says in
``Architecture.assumed``, and what it cannot do without is a ``SpecError``.
"""

from schemas.architecture.config import architecture_from_config
from schemas.architecture.facts import Architecture, Block, Parameters
from schemas.architecture.layers import (
    Attention,
    Experts,
    FeedForward,
    LatentAttention,
    StateSpace,
)
from schemas.architecture.precision import Precision

__all__ = [
    "Architecture",
    "Attention",
    "Block",
    "Experts",
    "FeedForward",
    "LatentAttention",
    "Parameters",
    "Precision",
    "StateSpace",
    "architecture_from_config",
]

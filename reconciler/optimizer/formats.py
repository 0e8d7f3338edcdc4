"""Which number format each term of a model's parameters is stored in.

The memory and the performance model read it, so that both count the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from schemas.architecture import Architecture, Parameters, Precision

__all__ = ["formats_of"]

FOUR_BITS = {Precision.FP4, Precision.MXFP4, Precision.INT4}


def formats_of(
    architecture: Architecture, precision: Precision
) -> Mapping[str, Precision]:
    """Term of ``Parameters`` -> format, for weights of ``precision``.

    The native format keeps what its config keeps. Four bits on a mixture of
    experts quantises the routed experts alone, as the published NVFP4, MXFP4 and
    INT4 checkpoints do (DeepSeek, Kimi-K2.5, MiniMax-M2.5, gpt-oss). Anything else
    quantises all matrices but embeddings, head, router, norms and image tower.
    """
    terms = [term.name for term in fields(Parameters)]
    kept = {"embedding", "head", "norms", "router", "vision"}
    if precision.covers_embeddings:
        kept = {"norms"}
    elif precision in FOUR_BITS and architecture.experts is not None:
        kept = set(terms) - {"routed"}
    elif precision == architecture.native:
        kept = set(architecture.unquantized)
    wide = precision if precision.bits > Precision.BF16.bits else Precision.BF16
    return {term: wide if term in kept else precision for term in terms}

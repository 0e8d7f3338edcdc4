"""Number formats of weights and caches, and how many bits one value takes.

Called by the architecture facts and by whatever names a precision in a spec. It
never says what a GPU can multiply: that is ``schemas.catalog``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["Precision"]


class Precision(StrEnum):
    """A number format, spelled as in a spec and in the measured data."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    INT8 = "int8"
    FP4 = "fp4"
    """NVFP4."""
    MXFP4 = "mxfp4"
    INT4 = "int4"
    """AWQ, GPTQ and their like."""
    Q8_0 = "q8_0"
    """GGUF."""
    Q4_K_M = "q4_k_m"
    """GGUF."""

    @property
    def bits(self) -> float:
        """Bits one stored value takes, its share of the block scales included."""
        return _BITS[self]

    @property
    def covers_embeddings(self) -> bool:
        """Whether files of this format quantise the embedding table as well."""
        return self in {Precision.FP32, Precision.Q8_0, Precision.Q4_K_M}


_BITS: Final = {
    Precision.FP32: 32.0,
    Precision.BF16: 16.0,
    Precision.FP16: 16.0,
    # One float32 scale for a 128 x 128 block, or for a tensor: below 0.01 bit.
    Precision.FP8: 8.0,
    Precision.INT8: 8.0,
    # NVFP4: an 8-bit scale for 16 values. MXFP4 (OCP): an 8-bit scale for 32.
    Precision.FP4: 4.5,
    Precision.MXFP4: 4.25,
    # AWQ and GPTQ at group size 128: a 16-bit scale and a zero point; with a group
    # of 64 it would be 4.31. Taken between the two.
    Precision.INT4: 4.25,
    # llama.cpp: Q8_0 is 34 bytes for 32 values; Q4_K_M mixes Q4_K (4.5) and Q6_K, in
    # Llama-3.1-8B's 4.92 GB file to 4.81 outside the two tables.
    Precision.Q8_0: 8.5,
    Precision.Q4_K_M: 4.81,
}

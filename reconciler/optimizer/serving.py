"""Requests out of steps: TTFT, TPOT and throughput of a replica under load.

The load is a closed loop: ``concurrency`` requests are always in flight, each
starting when another ends. An engine runs as many as its batch and its cache
allow and keeps the rest waiting. Prompts enter in chunks between the decoding
steps of others, so each token waits for other requests' prompts, and each
prompt for what is running. Pure arithmetic over columns; milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reconciler.optimizer.layouts import Layouts, Numbers
from reconciler.optimizer.roofline import Load, StepModel

__all__ = ["Serving", "Traffic", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The load on one replica."""

    input_tokens: Numbers
    output_tokens: Numbers
    concurrency: Numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a replica does under its load; the terms are kept for the features."""

    ttft_ms: Numbers
    tpot_ms: Numbers
    prefill_ms: Numbers
    """One prompt alone, through all its chunks."""
    decode_ms: Numbers
    """One step of all running sequences, without prompts."""
    marginal_ms: Numbers
    """What one more prompt adds to steps that run anyway."""
    running: Numbers
    """Sequences that run at once, in the whole replica."""
    prefill_share: Numbers
    """The part of the time that goes to prompts, 0 to 1."""
    waiting_ms: Numbers
    """For a place in the batch, where there are more requests than places."""
    decode_terms: Mapping[str, Numbers]
    prefill_terms: Mapping[str, Numbers]
    """What one step of each takes, by what takes it."""


def serve(
    model: StepModel, layouts: Layouts, traffic: Traffic, *, places: Numbers
) -> Serving:
    """Solve the closed loop; ``places`` is how many sequences the cache holds."""
    limit = np.maximum(np.minimum(layouts.max_batch, places), 1.0)
    running = np.minimum(traffic.concurrency, limit)
    outputs = np.maximum(traffic.output_tokens, 1.0)
    rank_batch = running / (layouts.data * layouts.pipeline)
    context = traffic.input_tokens + outputs / 2

    decode_terms = model.terms(
        layouts, _load(rank_batch, context, 0.0 * rank_batch, 0.0 * rank_batch)
    )
    decode = _total(decode_terms)
    chunk = np.minimum(traffic.input_tokens, layouts.chunk)
    chunks = traffic.input_tokens / chunk
    prefill_terms = _alone(model, layouts, chunk, traffic.input_tokens)
    alone = _total(prefill_terms)
    mixed = _total(
        model.terms(layouts, _load(rank_batch, context, chunk, traffic.input_tokens))
    )
    # Stages of a pipeline work on different chunks at once.
    prefill = alone * (1 + (chunks - 1) / layouts.pipeline)
    # Ranks with attention of their own take prompts side by side, so that one
    # step serves as many of them; stages of a pipeline overlap likewise.
    marginal = (
        np.maximum(mixed - decode, 0.0) * chunks / (layouts.data * layouts.pipeline)
    )
    cycle = running * marginal + outputs * decode
    share = running * marginal / cycle
    others = np.maximum(running - 1, 0.0) * marginal
    tpot = decode + others / outputs
    waiting = (traffic.concurrency - running) / running * (cycle + prefill)
    # Arrivals follow departures, which come in the bursts that admitted them: on
    # average a prompt finds half a step running and a share of the others ahead.
    queue = 0.5 * decode + share * others / 2
    return Serving(
        ttft_ms=prefill + queue + waiting,
        tpot_ms=tpot,
        prefill_ms=prefill,
        decode_ms=decode,
        marginal_ms=marginal,
        running=running,
        prefill_share=share,
        waiting_ms=waiting,
        decode_terms=decode_terms,
        prefill_terms=prefill_terms,
    )


def _alone(
    model: StepModel, layouts: Layouts, chunk: Numbers, length: Numbers
) -> Mapping[str, Numbers]:
    """Steps of a prompt alone: the same whatever runs, so once a layout."""
    ranks = (layouts.tensor, layouts.pipeline, layouts.data, layouts.expert)
    _, first, where = np.unique(
        np.column_stack([*ranks, chunk, length]),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    zero = np.zeros(len(first))
    load = _load(zero, zero, chunk[first], length[first])
    terms = model.terms(layouts.take(first), load)
    return {name: values[where.ravel()] for name, values in terms.items()}


def _total(terms: Mapping[str, Numbers]) -> Numbers:
    total: Numbers = np.sum(list(terms.values()), axis=0)
    return total


def _load(decode: Numbers, context: Numbers, prefill: Numbers, length: Numbers) -> Load:
    return Load(decode=decode, context=context, prefill=prefill, length=length)

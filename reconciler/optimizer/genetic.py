"""NSGA-II over a space too large to list: cost, throughput and margin at once.

DEAP selects; whole generations are evaluated together. A task's own objective picks
from what was found, after every batch, chunk and number of replicas of the best
layouts was tried: the last step is a list, not luck. Seeded, and bounded by
evaluations rather than seconds, so that a slow machine finds the same answer.
"""

from __future__ import annotations

import random
from typing import Any, Final

import numpy as np
from deap import base, tools

from reconciler.optimizer.choose import objective, order
from reconciler.optimizer.layouts import Numbers
from reconciler.optimizer.options import Options, join
from reconciler.optimizer.prediction import Predictor
from reconciler.optimizer.space import GENES, Choices, Space

__all__ = ["search"]

POPULATION: Final = 96  # NSGA-II's tournament takes multiples of four
GENERATIONS: Final = 24
PATIENCE: Final = 6
"""Generations without a better answer before the search stops early."""
CROSSED, MUTATED = 0.9, 0.3
POLISHED: Final = 10
"""Layouts of which everything else is tried in the end."""


class _Fitness(base.Fitness):  # type: ignore[misc]  # DEAP has no types
    """Cost and violation are to be small, throughput large."""

    weights = (-1.0, 1.0, -1.0)


class _Individual(list[int]):
    def __init__(self, genes: list[int]) -> None:
        super().__init__(genes)
        self.fitness = _Fitness()


def search(space: Space, predictor: Predictor, *, seed: int) -> Options:
    """Evaluate a few thousand choices, and return all that were."""
    draw = random.Random(seed)  # noqa: S311 - a search, not a secret
    population = _first(space, draw)
    seen = [_evaluate(space, predictor, population)]
    best, waited = _score(seen[0]), 0
    population = tools.selNSGA2(population, POPULATION, nd="log")
    for _ in range(GENERATIONS):
        children = _children(population, space, draw)
        seen.append(_evaluate(space, predictor, children))
        population = tools.selNSGA2(population + children, POPULATION, nd="log")
        score = _score(seen[-1])
        best, waited = (score, 0) if score < best else (best, waited + 1)
        if waited >= PATIENCE:
            break
    everything = join(seen)
    return join([everything, _polish(space, predictor, everything)])


def _first(space: Space, draw: random.Random) -> list[_Individual]:
    """Every layout of every block at a middling batch, then random choices."""
    genes = [
        [number, layout, len(block.batches) - 1, 0, replicas]
        for number, block in enumerate(space.blocks)
        for layout in range(len(block.layouts))
        for replicas in {0, len(block.replicas) // 2, len(block.replicas) - 1}
    ]
    genes += [
        [draw.randrange(1 << 20) for _ in range(GENES)] for _ in range(POPULATION)
    ]
    return [_Individual(g) for g in space.wrap(np.array(genes)).tolist()]


def _children(
    population: list[_Individual], space: Space, draw: random.Random
) -> list[_Individual]:
    genes = []
    for _ in range(POPULATION):
        mother, father = draw.sample(population, 2)
        child = list(mother)
        if draw.random() < CROSSED:
            child = [draw.choice(pair) for pair in zip(mother, father, strict=True)]
        for place in range(GENES):
            if draw.random() < MUTATED:
                # Numbers stand in order: a neighbour is a small change of meaning.
                near = place > 1 and draw.random() < CROSSED
                step = draw.choice((-1, 1)) if near else draw.randrange(1 << 20)
                child[place] = child[place] + step
        genes.append(child)
    return [_Individual(g) for g in space.wrap(np.array(genes)).tolist()]


def _evaluate(
    space: Space, predictor: Predictor, individuals: list[_Individual]
) -> Options:
    individuals.sort(key=lambda genes: genes[0])  # as ``options`` returns them
    options = space.options(np.array(individuals, dtype=np.int64), predictor)
    cost, rate = options.usd_per_h + options.devices * 1e-3, options.tokens_per_s
    missed = _missed(options)
    for genes, *values in zip(individuals, cost, rate, missed, strict=True):
        genes.fitness.values = tuple(float(value) for value in values)
    return options


def _missed(options: Options) -> Numbers:
    total: Numbers = np.sum(
        [np.maximum(margin, 0.0) for margin in options.margins().values()], axis=0
    )
    return total


def _score(options: Options) -> tuple[float, ...]:
    """What the task wants to be small, of the best that breaks least."""
    missed = _missed(options)
    ranked = np.lexsort((objective(options, options.task.objective), missed))
    best = ranked[0]
    value = objective(options, options.task.objective)[best]
    return float(missed[best]), float(value)


def _polish(space: Space, predictor: Predictor, seen: Options) -> Options:
    """Every batch, chunk and number of replicas of the best layouts."""
    ranked = order(seen)
    ranked = ranked[np.argsort(_missed(seen)[ranked] > 0, kind="stable")]
    parts: list[Choices] = []
    for number, layout in _shapes_of(space, seen, ranked):
        grid = np.indices((1, *space.blocks[number].sizes[1:])).reshape(4, -1).T
        grid[:, 0] = layout
        parts.append(np.insert(grid, 0, number, axis=1).astype(np.int64))
    choices = space.sensible(np.concatenate(parts))
    return space.options(choices, predictor)


def _shapes_of(
    space: Space, seen: Options, ranked: np.ndarray[Any, np.dtype[np.intp]]
) -> list[tuple[int, int]]:
    """(block, layout) of the best rows, best first, each once."""
    found: dict[tuple[int, int], None] = {}
    for index in ranked[: 50 * POLISHED]:
        for number, block in enumerate(space.blocks):
            if (block.pool, block.precision) != (
                int(seen.pool[index]),
                int(seen.precision[index]),
            ):
                continue
            same = (
                (block.layouts.tensor == seen.layouts.tensor[index])
                & (block.layouts.pipeline == seen.layouts.pipeline[index])
                & (block.layouts.data == seen.layouts.data[index])
                & (block.layouts.expert == seen.layouts.expert[index])
            )
            found.setdefault((number, int(np.flatnonzero(same)[0])))
        if len(found) >= POLISHED:
            break
    return list(found)[:POLISHED]

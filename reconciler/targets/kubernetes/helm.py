"""Releases -> manifests, through Helm, a batch at a time. (I/O: runs helm)

The Kubernetes target calls ``Renderer.render``. A start of Helm costs more than a
render, so releases of one chart that wait at the same time share one run; what was
rendered once is kept under the digest of its content, which names the chart's bytes
too. Nothing here talks to a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from reconciler.targets.kubernetes.manifests import Json
from reconciler.targets.kubernetes.sandbox import template
from renderers.helm import Release, our_chart, read_release
from schemas.errors import FoundryError, PermanentError

__all__ = ["Renderer"]

_BATCH = 250
_KEPT = 4096
# The field of each chart's values that holds its entries.
_ENTRIES = {"endpoint": "endpoints", "model": "models"}


@dataclass(frozen=True, slots=True)
class _Waiting:
    release: Release
    manifests: asyncio.Future[tuple[Json, ...]]


class Renderer:
    """Renders the content of units. ``runs`` counts how often Helm was started."""

    def __init__(self, helm: str, *, kube_version: str = "1.34.2") -> None:
        self._helm, self._kube_version = helm, kube_version
        self._kept: OrderedDict[str, tuple[Json, ...]] = OrderedDict()
        self._waiting: dict[str, _Waiting] = {}
        self._running = asyncio.Lock()
        self.runs = 0

    async def render(self, content: bytes) -> tuple[Json, ...]:
        """Render one release: the same content, the same manifests.

        Raises:
            PermanentError: these bytes are no release, or Helm refuses them.
            TemporaryError: Helm did not come back in time.
        """
        digest = hashlib.sha256(content).hexdigest()
        if (known := self._kept.get(digest)) is not None:
            self._kept.move_to_end(digest)
            return known
        if (waiting := self._waiting.get(digest)) is None:
            future = asyncio.get_running_loop().create_future()
            waiting = self._waiting[digest] = _Waiting(read_release(content), future)
        # Whoever gets the lock first renders for all that wait by then.
        async with self._running:
            if not waiting.manifests.done():
                await self._render_all()
        return waiting.manifests.result()

    async def _render_all(self) -> None:
        taken, self._waiting = self._waiting, {}
        try:
            for chart in sorted({w.release.chart for w in taken.values()}):
                mine = [d for d, w in taken.items() if w.release.chart == chart]
                for start in range(0, len(mine), _BATCH):
                    some = {d: taken[d] for d in mine[start : start + _BATCH]}
                    await self._render_some(chart, some)
        finally:
            # Cancelled half way: the rest is for whoever gets the lock next.
            left = {d: w for d, w in taken.items() if not w.manifests.done()}
            self._waiting = {**left, **self._waiting}

    async def _render_some(self, chart: str, some: Mapping[str, _Waiting]) -> None:
        try:
            rendered = await self._run(chart, {d: w.release for d, w in some.items()})
        except FoundryError as error:
            if len(some) > 1:  # one bad release must not fail its neighbours
                for digest, waiting in some.items():
                    await self._render_some(chart, {digest: waiting})
                return
            for waiting in some.values():
                waiting.manifests.set_exception(error)
            return
        for digest, waiting in some.items():
            self._kept[digest] = rendered[digest]
            waiting.manifests.set_result(rendered[digest])
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    async def _run(
        self, name: str, releases: Mapping[str, Release]
    ) -> dict[str, tuple[Json, ...]]:
        if name not in _ENTRIES:
            raise PermanentError(f"cannot render chart {name}: no such chart here")
        chart = our_chart(name)
        for release in releases.values():
            if release.chart_digest != chart.digest:
                raise PermanentError(
                    f"cannot render {release.entry}: it wants chart {name} "
                    f"{release.chart_digest[:12]}, not {chart.digest[:12]}",
                    hint="plan again: this release of bud carries another chart",
                )
        entries = {digest: release.values for digest, release in releases.items()}
        self.runs += 1
        output = await template(
            self._helm,
            chart,
            {_ENTRIES[name]: entries},
            kube_version=self._kube_version,
        )
        return _by_entry(output, releases)


def _by_entry(
    output: bytes, entries: Mapping[str, object]
) -> dict[str, tuple[Json, ...]]:
    """Sort Helm's output by entry; our charts write an object a line, see there."""
    found: dict[str, list[Json]] = {entry: [] for entry in entries}
    entry = ""
    for line in output.splitlines():
        if line.startswith(b"# entry: "):
            entry = line.removeprefix(b"# entry: ").decode()
        elif line.startswith(b"{"):
            found[entry].append(orjson.loads(line))
    return {entry: tuple(objects) for entry, objects in found.items()}

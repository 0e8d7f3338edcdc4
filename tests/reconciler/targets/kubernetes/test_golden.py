"""What Helm makes of every case, byte for byte, and what a real API server says."""

from pathlib import Path

import pytest
import yaml

from reconciler.targets.kubernetes.client import Client
from reconciler.targets.kubernetes.discovery import Discovery
from reconciler.targets.kubernetes.helm import Renderer
from reconciler.targets.kubernetes.manifests import identify
from reconciler.targets.kubernetes.sandbox import find_helm
from tests.reconciler.targets.kubernetes.foundry import client_of
from tests.reconciler.targets.kubernetes.plane import Plane
from tests.renderers.kubernetes_cases import CASES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", CASES)
async def test_a_render_is_what_was_reviewed(
    case: str, update_golden: bool, control_plane: Plane
) -> None:
    objects = await Renderer(find_helm()).render(CASES[case]())
    said = yaml.safe_dump_all(objects, sort_keys=True, width=100)
    file = GOLDEN / f"{case}.yaml"
    if update_golden:
        file.parent.mkdir(exist_ok=True)
        file.write_text(said)
    assert file.read_text() == said


@pytest.mark.parametrize("case", CASES)
async def test_the_api_server_takes_every_rendered_object(
    case: str, control_plane: Plane
) -> None:
    """Strictly: an unknown or repeated field fails, of core kinds and of CRDs."""
    async with await client_of(control_plane) as client:
        for manifest in await Renderer(find_helm()).render(CASES[case]()):
            await _dry_run(client, dict(manifest))


async def _dry_run(client: Client, manifest: dict[str, object]) -> None:
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    moved = {**manifest, "metadata": {**metadata, "namespace": "default"}}
    path = await Discovery(client).path(identify(moved))
    await client.apply(path, moved, force=False, dry_run=True)

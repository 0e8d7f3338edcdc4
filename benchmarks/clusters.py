"""Planning many clusters, against Terraform alone on the same roots.

    python -m benchmarks.clusters [CLUSTERS] [PARALLEL]

bud looks at every cluster and plans it, as ``bud plan`` does for clusters that are to
be made; beside it ``terraform init`` and ``terraform plan -out`` run in folders with the
same files, as many at once. Our aws-eks module with the real AWS provider at the tests'
emulator where both are here; else a root of ``terraform_data`` alone, and it says so.
The ratio is of CPU seconds of all children, which other work on the machine moves least.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reconciler.targets.terraform import Backend, Command, TerraformTarget
from reconciler.values import Action, Change, Key, Unit
from renderers.terraform import Module, our_module, render_cluster, root
from schemas.catalog import catalog
from schemas.cluster import Cluster
from tests.reconciler.targets.terraform import tools
from tests.reconciler.targets.terraform.aws import KEY, SECRET, emulated
from tests.reconciler.targets.terraform.conftest import SMALL, unit_of

LIMIT = 1.10
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}


def aws_unit(name: str) -> Unit:
    written = {
        "apiVersion": "foundry.bud/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "provider": "aws-eks",
            "version": "1.33",
            "region": "us-east-1",
            "credentials": {"env": "AWS"},
            "nodePools": [{"name": "system", "instanceType": "m7i.xlarge", "count": 2}],
        },
    }
    cluster = Cluster.model_validate_json(json.dumps(written))
    content = render_cluster(cluster, catalog())
    key = Key("terraform", cluster.ref)
    return Unit(key=key, content=content, digest=sha256(content).hexdigest())


def small_unit(name: str) -> Unit:
    return unit_of(SMALL, name, {"value": name})


@contextmanager
def timed(what: str, spent: dict[str, float]) -> Iterator[None]:
    def cpu() -> float:
        used = (
            resource.getrusage(w)
            for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return sum(u.ru_utime + u.ru_stime for u in used)

    began, before = time.perf_counter(), cpu()
    yield
    spent[what] = cpu() - before
    wall = time.perf_counter() - began
    print(f"  {what:<22} {spent[what]:8.1f} s CPU {wall:8.1f} s")


async def bare(command: Command, folder: Path, files: Any, secrets: Any) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for words in (
        ("init", "-input=false"),
        ("plan", "-input=false", "-lock=false", "-out=plan.tfplan"),
    ):
        done = await command.read(words, folder=folder, secrets=secrets)
        assert done.code == 0, done.err


async def main(count: int, parallel: int) -> None:
    terraform, mirror = tools.terraform(), tools.mirror()
    cloud = terraform is not None and mirror is not None
    binary = terraform if cloud else tools.tofu() or terraform
    assert binary is not None, "neither terraform nor tofu is here: run `make tools`"
    kind = "aws-eks, hashicorp/aws" if cloud else "terraform_data alone, NO provider"
    print(f"{count} clusters ({kind}), {parallel} at once, {Path(binary).name}")
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with emulated(folder) if cloud else nullcontext() as aws:
            around = {"AWS_EC2_METADATA_DISABLED": "true"}
            around |= {"AWS_ENDPOINT_URL": aws.url} if aws else {}
            command = Command(
                binary=binary,
                home=folder / "home",
                mirror=mirror,
                environment=around,
                room=asyncio.Semaphore(parallel),
            )
            command.prepare()
            module: Module = our_module("aws-eks") if cloud else SMALL
            settings = {"local": {"workspace_dir": str(folder / "states")}}
            target = TerraformTarget(
                backend=Backend(
                    command=command,
                    folder=folder / "bud" / "backend",
                    settings=settings,
                ),
                credentials=lambda _: json.dumps(CREDENTIALS),
                modules=lambda _: module,
            )
            make = aws_unit if cloud else small_unit
            units = [make(f"c{i}") for i in range(count)]

            async def all_of(work: list[Awaitable[object]]) -> None:
                await asyncio.gather(*work)

            async def plan() -> None:
                await target.observe([unit.key for unit in units])
                changes = [
                    Change(key=u.key, action=Action.CREATE, unit=u) for u in units
                ]
                await all_of([target.preview(change) for change in changes])

            secrets = CREDENTIALS if cloud else {}
            with timed("terraform alone", spent):
                await all_of(
                    [
                        bare(
                            command,
                            folder / "bare" / unit.key.ref.name,
                            root(unit.content, module, settings),
                            secrets,
                        )
                        for unit in units
                    ]
                )
            with timed("bud", spent):
                await plan()
            with timed("bud, looked at again", spent):
                await plan()
    ratio = spent["bud"] / spent["terraform alone"]
    print(f"bud / terraform alone  {ratio:.2f} (limit {LIMIT:.2f})")


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    asyncio.run(main(*given, *(50, os.cpu_count() or 1)[len(given) :]))

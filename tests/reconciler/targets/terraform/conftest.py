"""A terraform target whose states are files and whose module needs no cloud."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from reconciler.targets.looks import Looks
from reconciler.targets.terraform import Backend, Command, TerraformTarget
from reconciler.values import Key, Unit
from renderers.terraform import Module, our_module, render_cluster
from schemas.catalog import catalog
from schemas.cluster import Cluster
from schemas.local import canonical
from schemas.objects import Ref
from schemas.terraform import ModuleManifest
from tests.reconciler.targets.terraform import tools
from tests.reconciler.targets.terraform.aws import KEY, SECRET, Aws, emulated

SMALL = Module(
    name="small",
    files={
        "variables.tf": b'variable "value" {\n  type = string\n}\n',
        "main.tf": b'resource "terraform_data" "this" {\n  input = var.value\n}\n',
    },
)


def unit_of(
    module: Module, name: str, variables: dict[str, object], **more: str
) -> Unit:
    manifest = ModuleManifest.model_validate(
        {
            "project": "default",
            "name": name,
            "module": module.name,
            "module_digest": module.digest,
            "variables": variables,
            "credentials": None,
            "deletion_policy": "delete",
            **more,
        }
    )
    content = canonical(manifest)
    key = Key("terraform", Ref("Cluster", "default", name))
    return Unit(key=key, content=content, digest=sha256(content).hexdigest())


@dataclass
class SmallWorld:
    target: TerraformTarget
    states: Path
    module: Module = SMALL

    def unit(self, name: str, variant: int = 0) -> Unit:
        return unit_of(
            self.module, name, {"value": f"${{file('/etc/passwd')}} {variant}"}
        )

    def impossible(self, name: str) -> Unit:
        return unit_of(self.module, name, {"no_such_variable": 1})

    def state(self, key: Key) -> Path:
        return self.states / f"{key.ref.project}.{key.ref.name}" / "terraform.tfstate"

    def break_reads(self, key: Key) -> None:
        self.state(key).write_text("{")

    async def stray(self, key: Key) -> None:
        state = json.loads(self.state(key).read_text())
        (resource,) = (r for r in state["resources"] if "module" in r)
        resource["instances"][0]["attributes"]["input"]["value"] = "by hand"
        state["serial"] += 1
        self.state(key).write_text(json.dumps(state))


@pytest.fixture(params=["terraform", "tofu"])
def binary(request: pytest.FixtureRequest) -> str:
    found: str | None = getattr(tools, request.param)()
    if found is None and request.param == "tofu" and os.environ.get("CI"):
        pytest.fail("tofu is not here: run `make tools`")
    if found is None:
        pytest.skip(f"NOT RUN: {request.param} is not on this machine")
    return found


@pytest.fixture
def world(binary: str, tmp_path: Path) -> SmallWorld:
    states = tmp_path / "states"
    command = Command(binary=binary, home=tmp_path / "home", mirror=None)
    backend = Backend(
        command=command,
        folder=tmp_path / "terraform" / "backend",
        settings={"local": {"workspace_dir": str(states)}},
    )
    target = TerraformTarget(
        backend=backend,
        credentials=lambda _: "",
        modules=lambda _: SMALL,
        looks=Looks(every_s=0),
    )
    return SmallWorld(target=target, states=states)


def missing_for_aws() -> str:
    """What the tests on the emulated AWS cannot run without, and pip cannot bring."""
    lacks = [] if tools.terraform() else ["terraform (PATH or BUD_TERRAFORM)"]
    if tools.mirror() is None:
        lacks.append("a mirror with hashicorp/aws 5.100.0 (BUD_TERRAFORM_MIRROR)")
    return ", ".join(lacks)


@dataclass
class AwsWorld:
    """A target whose clusters are made at an emulated AWS."""

    aws: Aws
    target: TerraformTarget
    folder: Path

    def look_again(self) -> None:
        """Let the next look compare with the cloud, as if ten minutes had passed."""
        self.target.looks.forget()

    def unit(self, **spec: object) -> Unit:
        written = {
            "apiVersion": "foundry.bud/v1",
            "kind": "Cluster",
            "metadata": {"name": "prod"},
            "spec": {
                "provider": "aws-eks",
                "version": "1.32",
                "region": "us-east-1",
                "credentials": {"env": "AWS_OF_PROD"},
                "deletionPolicy": "delete",
                "nodePools": [SYSTEM],
                **spec,
            },
        }
        cluster = Cluster.model_validate_json(json.dumps(written))
        content = render_cluster(cluster, catalog())
        key = Key("terraform", cluster.ref)
        return Unit(key=key, content=content, digest=sha256(content).hexdigest())


SYSTEM = {"name": "system", "instanceType": "m7i.xlarge", "count": 2}
H100 = {
    "name": "h100",
    "instanceType": "p5.48xlarge",
    "min": 0,
    "max": 2,
    "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
}

MakeWorld = Callable[..., AwsWorld]


@pytest.fixture
def aws_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Make targets at one emulated AWS; ``settings`` are the emulator's."""
    if lacks := missing_for_aws():
        pytest.skip(f"NOT RUN: this machine lacks {lacks}")
    binary, mirror = tools.terraform(), tools.mirror()
    assert binary is not None
    with ExitStack() as running:

        def make(
            *, backend: dict[str, object] | None = None, **settings: str
        ) -> AwsWorld:
            folder = tmp_path / f"aws{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            aws = running.enter_context(emulated(folder, **settings))
            states = {"local": {"workspace_dir": str(folder / "states")}}
            command = Command(
                binary=binary,
                home=folder / "home",
                mirror=mirror,
                environment={
                    "AWS_ENDPOINT_URL": aws.url,
                    "AWS_EC2_METADATA_DISABLED": "true",
                },
            )
            target = TerraformTarget(
                backend=Backend(
                    command=command,
                    folder=folder / "terraform" / "backend",
                    settings=backend or states,
                ),
                credentials=lambda _: (
                    f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}"
                ),
                modules=our_module,
            )
            return AwsWorld(aws=aws, target=target, folder=folder)

        yield make

"""A checkout whose cluster Terraform makes, with no cloud anywhere.

Real: the command, terraform or OpenTofu, states and plans on disk, the API server that
the "cluster" turns out to be. Not real: the module makes nothing (`terraform_data`),
and a small server in front of the API server takes EKS' place: it looks at who a
token says that it is, not at its signature.
"""

import base64
import json
import os
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import yaml
from click.testing import CliRunner

from reconciler.cli.main import bud
from renderers.terraform import Module, our_module
from schemas.errors import FoundryError
from tests.reconciler.targets.kubernetes.plane import TOKEN, Plane

ROOT = Path(__file__).parents[4]
KEY, SECRET = "AKIALINE", "canary/line+secret=0123456789"
SYSTEM = {"name": "system", "instanceType": "m7i.xlarge", "count": 2}
H100 = {"name": "h100", "instanceType": "p5.48xlarge", "min": 0, "max": 2}


def who(token: str) -> tuple[str, str]:
    """Key id and signed headers of an EKS token."""
    text = token.removeprefix("k8s-aws-v1.")
    url = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    query = parse_qs(urlsplit(url).query)
    names = query["X-Amz-SignedHeaders"][0]
    return query["X-Amz-Credential"][0].split("/")[0], names


@contextmanager
def authenticator(plane: Plane) -> Iterator[str]:
    """Let through whoever signed as KEY; the API server itself is the real one."""
    context = ssl.create_default_context(cadata=plane.ca.decode())

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if not token or who(token) != (KEY, "host;x-k8s-aws-id"):
                self.send_error(401)
                return
            length = int(self.headers.get("Content-Length") or 0)
            request = urllib.request.Request(
                plane.server + self.path,
                method=self.command,
                data=self.rfile.read(length) if length else None,
                headers={
                    "Authorization": f"Bearer {TOKEN}",
                    "Content-Type": self.headers.get("Content-Type", ""),
                },
            )
            try:
                with urllib.request.urlopen(request, context=context) as answer:
                    status, content = answer.status, answer.read()
            except HTTPError as error:
                status, content = error.code, error.read()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def module(endpoint: str) -> Module:
    """Takes what aws-eks takes, says what it says, and makes nothing."""
    main = f"""
resource "terraform_data" "pool" {{
  for_each = var.node_pools
  input    = each.value
}}
resource "terraform_data" "cluster" {{
  input = {{ name = var.name, version = var.kubernetes_version, region = var.region }}
}}
output "cluster" {{
  value = {{
    name                  = terraform_data.cluster.output.name
    region                = terraform_data.cluster.output.region
    endpoint              = "{endpoint}"
    certificate_authority = "{base64.b64encode(b"none").decode()}"
  }}
}}
"""
    variables = our_module("aws-eks").files["variables.tf"]
    return Module(
        name="aws-eks", files={"main.tf": main.encode(), "variables.tf": variables}
    )


@dataclass
class Team:
    """Who works in the checkout, by the command alone."""

    repo: Path
    environment: dict[str, str]
    spoken: list[str] = field(default_factory=list)
    """Whatever any command printed."""

    @property
    def state(self) -> Path:
        return self.repo / ".bud" / "cloud"

    def write(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        file = self.repo / "spec" / kind.lower() / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        item = {
            "apiVersion": "foundry.bud/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        file.write_text(yaml.safe_dump(item))

    def remove(self, kind: str, name: str) -> None:
        (self.repo / "spec" / kind.lower() / f"{name}.yaml").unlink()

    def cluster(self, **spec: Any) -> None:
        said = {
            "provider": "aws-eks",
            "version": "1.32",
            "region": "us-east-1",
            "credentials": {"env": "AWS_OF_PROD"},
            "deletionPolicy": "delete",
            "storageClass": "kwok-volume",
            "nodePools": [SYSTEM],
        }
        self.write("Cluster", "prod", said | spec)

    def model(self, name: str, *prefetch: str) -> None:
        said = {
            "source": {"hf": {"repo": "Qwen/Qwen3-8B", "revision": "0" * 40}},
            "precision": "bf16",
            "licence": {"id": "apache-2.0"},
        }
        self.write("Model", name, said | {"prefetch": [*prefetch]})

    def run(self, *arguments: str) -> tuple[int, str]:
        """In this process: starting Python each time would cost most of the test."""
        argv = ["--repo", str(self.repo), "--env", "cloud", *arguments]
        done = CliRunner().invoke(
            bud, argv, env=self.environment, standalone_mode=False
        )
        self.spoken.append(done.output)
        if done.exception is not None and not isinstance(done.exception, FoundryError):
            raise done.exception
        return done.return_value or 0, done.stdout or str(done.exception)

    def killed(self, *arguments: str, at: int) -> int:
        """In a process of its own, which dies at its n-th point."""
        argv = ["--repo", str(self.repo), "--env", "cloud", *arguments]
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("bud_beside.py")), *argv],
            env=self.environment | {"BUD_FAULT_AT": str(at)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        self.spoken += [done.stdout, done.stderr]
        return done.returncode

    def plan(self) -> dict[str, Any]:
        """The plan, without the gateway's own part."""
        _, out = self.run("--json", "plan")
        made: dict[str, Any] = json.loads(out)
        ours = [s for s in made["steps"] if not s["key"].startswith("gateway:")]
        return made | {"steps": ours}

    def apply(self) -> dict[str, str]:
        """Object -> outcome."""
        _, out = self.run("--json", "apply")
        found = {o["key"]: o["outcome"] for o in json.loads(out)["outcomes"]}
        return {k: o for k, o in found.items() if not k.startswith("gateway:")}

    def stray(self) -> None:
        """Change a pool by hand."""
        (state,) = self.states()
        data = json.loads(state.read_text())
        (pools,) = [r for r in data["resources"] if r["name"] == "pool"]
        pools["instances"][0]["attributes"]["input"]["value"]["max"] = 99
        data["serial"] += 1
        state.write_text(json.dumps(data))

    def states(self) -> list[Path]:
        return sorted((self.state / "terraform" / "states").rglob("terraform.tfstate"))


def team(folder: Path, endpoint: str, binary: str) -> Team:
    repo = folder / "repo"
    environment = repo / "environments" / "cloud"
    environment.mkdir(parents=True)
    (repo / "spec").mkdir()
    (environment / "environment.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "foundry.bud/v1",
                "kind": "Environment",
                "metadata": {"name": "cloud"},
                "spec": {
                    "take": ["Cluster/*", "Model/*"],
                    "deletions": {"percent": 100},
                },
            }
        )
    )
    at = folder / "module"
    at.mkdir()
    for name, content in module(endpoint).files.items():
        (at / name).write_bytes(content)
    made = Team(
        repo=repo,
        environment={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "BUD_TERRAFORM": binary,
            "BUD_TEST_MODULE": str(at),
            "AWS_OF_PROD": f"AWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY={SECRET}",
        },
    )
    # What an environment takes must be there, also when the cluster is gone.
    made.write("Cluster", "here", {"provider": "local"})
    made.model("kept")
    return made

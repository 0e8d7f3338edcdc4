"""The emulated AWS of a test, and what is left in it."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session

from tests.reconciler.targets.terraform.tools import free_port

_READY_S = 60.0
KEY, SECRET = "AKIAEMULATED", "canary+/aws/secret=0123456789"


@dataclass(frozen=True)
class Aws:
    url: str

    def client(self, service: str) -> Any:
        session = botocore.session.get_session()
        return session.create_client(
            service,
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
        )

    def left(self) -> list[str]:
        """Everything there that a cluster of ours may have left.

        A KMS key is not among it: AWS keeps one for 30 days after it is given up.
        """
        ec2, iam = self.client("ec2"), self.client("iam")
        kinds: Mapping[str, list[Any]] = {
            "cluster": self.client("eks").list_clusters()["clusters"],
            "vpc": [v for v in ec2.describe_vpcs()["Vpcs"] if not v.get("IsDefault")],
            "nat": [
                nat
                for nat in ec2.describe_nat_gateways()["NatGateways"]
                if nat["State"] != "deleted"
            ],
            "address": ec2.describe_addresses()["Addresses"],
            "template": ec2.describe_launch_templates()["LaunchTemplates"],
            "placement": ec2.describe_placement_groups()["PlacementGroups"],
            "endpoint": ec2.describe_vpc_endpoints()["VpcEndpoints"],
            "flow log": ec2.describe_flow_logs()["FlowLogs"],
            "log group": self.client("logs").describe_log_groups()["logGroups"],
            "role": [r for r in iam.list_roles()["Roles"] if r["Path"] == "/"],
            "issuer": iam.list_open_id_connect_providers()["OpenIDConnectProviderList"],
        }
        return [f"{kind}: {item}" for kind, items in kinds.items() for item in items]


@contextmanager
def emulated(folder: Path, **settings: str) -> Iterator[Aws]:
    """Run an emulator of its own, on loopback, for as long as the block lasts."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        # Without these it listens on every interface, and opens a broker for MQTT.
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "EKS_BASE_PORT": str(free_port()),
        **settings,
    }
    script = Path(__file__).with_name("emulator.py")
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(script)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(process, f"{url}/_ministack/health")
        yield Aws(url)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the emulator ended"
            assert time.monotonic() < deadline, "the emulator is not ready"
            time.sleep(0.1)  # waits for a condition, until the deadline

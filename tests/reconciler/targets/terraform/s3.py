"""A real S3 server on loopback: SeaweedFS, for states and their locks."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError

from tests.reconciler.targets.terraform.tools import free_port

_READY_S = 90.0
BUCKET = "states"
_KEY, _SECRET = "state-key", "canary-state-secret"


def weed() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@dataclass(frozen=True)
class S3:
    url: str
    profile: Path
    """A credentials file: the backend names it, and holds no secret itself."""

    @property
    def client(self) -> Any:
        return botocore.session.get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
        )

    def backend(self) -> dict[str, object]:
        return {
            "s3": {
                "bucket": BUCKET,
                "key": "bud",
                "region": "us-east-1",
                "profile": "states",
                "shared_credentials_files": [str(self.profile)],
                "endpoints": {"s3": self.url},
                "use_lockfile": True,
                "use_path_style": True,
                "skip_credentials_validation": True,
                "skip_metadata_api_check": True,
                "skip_region_validation": True,
                "skip_requesting_account_id": True,
            }
        }

    def objects(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        names = [item["Key"] for item in listed]
        return {
            name: self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
            for name in names
        }


@contextmanager
def served(folder: Path) -> Iterator[S3]:
    binary = weed()
    assert binary is not None
    identity = {
        "name": "bud",
        "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config, data = folder / "s3.json", folder / "weed"
    config.write_text(json.dumps({"identities": [identity]}))
    data.mkdir()
    profile = folder / "credentials"
    profile.write_text(
        f"[states]\naws_access_key_id = {_KEY}\naws_secret_access_key = {_SECRET}\n"
    )
    s3, *others = (free_port() for _ in range(8))
    names = ("master", "volume", "filer")
    ports = [f"-{name}.port={port}" for name, port in zip(names, others, strict=False)]
    # Its gRPC ports are 10000 higher unless they are said.
    grpc = [
        f"-{name}.port.grpc={port}"
        for name, port in zip((*names, "s3"), others[3:], strict=False)
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [
                binary, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                "-filer", "-s3", f"-s3.port={s3}", f"-s3.config={config}",
                "-volume.max=5", "-master.volumeSizeLimitMB=16", *ports, *grpc,
                # What it would serve beside S3, on ports of its own.
                "-s3.port.iceberg=0", "-s3.port.lance=0",
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        server = S3(f"http://127.0.0.1:{s3}", profile)
        _make_bucket(process, server)
        yield server
    finally:
        process.kill()
        process.wait()


def _make_bucket(process: subprocess.Popen[bytes], server: S3) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            server.client.create_bucket(Bucket=BUCKET)
            server.client.put_object(Bucket=BUCKET, Key="probe", Body=b"")
            server.client.delete_object(Bucket=BUCKET, Key="probe")
        except (BotoCoreError, ClientError):
            assert process.poll() is None, "weed ended"
            assert time.monotonic() < deadline, "weed is not ready"
            time.sleep(0.2)  # waits for a condition, until the deadline
        else:
            return

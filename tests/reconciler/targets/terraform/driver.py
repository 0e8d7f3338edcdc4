"""Apply one unit in a process of its own, which a test may kill."""

import asyncio
import json
import sys
from pathlib import Path

from reconciler.targets.terraform import Backend, Command, TerraformTarget
from reconciler.values import Action, Change, Key, Unit
from schemas.objects import Ref


def tell(_: Key, message: str) -> None:
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()


async def main(given: dict[str, str]) -> None:
    command = Command(
        binary=given["binary"],
        home=Path(given["home"]),
        mirror=Path(given["mirror"]),
        environment=json.loads(given["environment"]),
    )
    backend = Backend(
        command=command,
        folder=Path(given["folder"]),
        settings=json.loads(given["settings"]),
    )
    target = TerraformTarget(backend=backend, credentials=lambda _: given["credential"])
    key = Key("terraform", Ref.parse(given["ref"]))
    content = given["content"].encode()
    unit = Unit(key=key, content=content, digest=given["digest"])
    change = Change(key=key, action=Action.CREATE, unit=unit)
    await target.apply(change, tell)


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))

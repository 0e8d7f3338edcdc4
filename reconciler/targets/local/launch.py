"""From a program of a manifest to the command of this machine (I/O).

Fills the placeholders, chooses devices, and says before anything is written
whether the engine can be started here at all. It starts nothing itself.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import reconciler
from schemas.errors import PermanentError, TemporaryError
from schemas.local import MODEL, PORT, PYTHON, Program

__all__ = [
    "NoDevice",
    "choose_gpus",
    "command",
    "environment",
    "gpus",
    "require_engine",
    "with_port",
]

_ENGINES = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "xllamacpp"}
"""Engine -> the package that brings it; the simulator is our own."""
_INSTALL = {
    "vllm": "install vllm into the Python that runs bud",
    "sglang": "install sglang into the Python that runs bud",
    "llamacpp": "install bud-foundry[local]",
}
# What a replica needs of our environment. The rest stays here: credentials of the
# daemon are none of an engine's business.
_PASSED = re.compile(
    r"PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|TERM|VIRTUAL_ENV|PYTHONPATH|XDG_\w+"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|CUDA_\w+|NVIDIA_\w+|NCCL_\w+|OMP_\w+|GGML_\w+"
)
_OWN_ENGINES = "reconciler.engines."
_DEVICE = re.compile(r"nvidia(\d+)")


def require_engine(program: Program) -> None:
    """Check that the engine is installed in this Python, in the version asked for.

    Raises:
        PermanentError: it is not.
    """
    package = _ENGINES.get(program.engine)
    if package is None:
        return
    hint = f"{_INSTALL[program.engine]}, or use engine simulator to rehearse"
    try:
        found = version(package)
    except PackageNotFoundError as error:
        raise PermanentError(
            f"cannot start engine: {program.engine} is not installed", hint=hint
        ) from error
    if program.version is not None and found != program.version:
        raise PermanentError(
            f"cannot start engine: {program.engine} {found} is installed, "
            f"{program.version} is asked for",
            hint=hint,
        )


def command(
    argv: Iterable[str], *, model: Path | None, adapters: Mapping[str, str]
) -> tuple[str, ...]:
    """Fill what is known before a port is: the Python, the weights, the adapters."""
    filled = {PYTHON: sys.executable, **adapters}
    if model is not None:
        filled[MODEL] = str(model)
    return tuple(filled.get(argument, argument) for argument in argv)


def with_port(argv: Iterable[str], port: int) -> list[str]:
    return [str(port) if argument == PORT else argument for argument in argv]


def environment(
    program: Program, gpus: Collection[int], ours: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What a replica finds in its environment: little of ours, all of the spec's."""
    env = {name: value for name, value in ours.items() if _PASSED.fullmatch(name)}
    if any(argument.startswith(_OWN_ENGINES) for argument in program.argv):
        # Our engines are modules of this very tree, wherever it is installed.
        tree = str(Path(reconciler.__file__).parents[1])
        paths = [tree, *filter(None, [env.get("PYTHONPATH")])]
        env["PYTHONPATH"] = os.pathsep.join(paths)
    if program.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, sorted(gpus)))
    return env | program.env


def gpus(devices: Path = Path("/dev")) -> set[int]:
    """The GPUs of this machine, by the numbers of their device files."""
    found = (_DEVICE.fullmatch(path.name) for path in devices.iterdir())
    return {int(match[1]) for match in found if match}


class NoDevice(TemporaryError):
    """No device is free for one more replica; one that ends makes room."""


def choose_gpus(all_: Collection[int], used: Collection[int], need: int) -> set[int]:
    """Choose the lowest free GPUs.

    Raises:
        NoDevice: fewer are free.
    """
    free = sorted(set(all_) - set(used))
    if len(free) < need:
        raise NoDevice(
            f"cannot start a replica: it needs {need} GPUs, {len(free)} of {len(all_)} "
            "are free",
            hint="free some, lower replicas, or use engine simulator to rehearse",
        )
    return set(free[:need])

"""A program of a manifest becomes a command of this machine, or says why not."""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from reconciler.targets.local import launch
from reconciler.targets.local.launch import (
    NoDevice,
    choose_gpus,
    command,
    environment,
    gpus,
    require_engine,
    with_port,
)
from schemas.errors import PermanentError
from schemas.local import Probe, Program


def program(engine: str = "vllm", **changes: object) -> Program:
    return Program.model_validate(
        {
            "engine": engine,
            "argv": ("{python}", "-m", "vllm"),
            "probe": Probe(task="chat", model="chat"),
            **changes,
        }
    )


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def find(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(launch, "version", find)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp"])
def test_an_engine_that_is_not_installed_is_refused_with_a_way_out(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed(monkeypatch)
    with pytest.raises(
        PermanentError, match=f"cannot start engine: {engine} is not installed"
    ) as refused:
        require_engine(program(engine))
    assert "install" in refused.value.hint
    assert "simulator" in refused.value.hint


def test_another_version_than_asked_for_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _installed(monkeypatch, vllm="0.10.0")
    require_engine(program(version="0.10.0"))
    require_engine(program())
    with pytest.raises(PermanentError, match=r"vllm 0\.10\.0 is installed, 0\.11\.0"):
        require_engine(program(version="0.11.0"))


def test_the_simulator_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch)
    require_engine(program("simulator"))


def test_placeholders_are_whole_arguments_only() -> None:
    argv = ("{python}", "{model}", "{port}", '{"port": "{port}"}', "{adapter:law}")
    filled = command(argv, model=Path("/w"), adapters={"{adapter:law}": "law=/a"})
    assert filled == (sys.executable, "/w", "{port}", '{"port": "{port}"}', "law=/a")
    assert with_port(filled, 7)[2:4] == ["7", '{"port": "{port}"}']


def test_a_replica_gets_little_of_our_environment_and_all_of_its_own() -> None:
    ours = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "AWS_SECRET_ACCESS_KEY": "no",
        "BUD_FAULT_AT": "1",
    }
    env = environment(program(env={"A": "1"}), (), ours)
    assert env == {"PATH": "/bin", "LC_ALL": "C", "A": "1"}


def test_our_own_engines_find_our_tree() -> None:
    ours = program("simulator", argv=("{python}", "-m", "reconciler.engines.x"))
    path = environment(ours, (), {"PYTHONPATH": "/theirs"})["PYTHONPATH"]
    assert path == f"{Path(launch.__file__).parents[3]}:/theirs"


def test_a_replica_sees_its_own_gpus_only() -> None:
    assert environment(program(gpus=2), {3, 1}, {}) == {"CUDA_VISIBLE_DEVICES": "1,3"}


def test_gpus_are_counted_by_their_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia11", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus(tmp_path) == {0, 11}


def test_the_lowest_free_gpus_are_taken_and_none_twice() -> None:
    assert choose_gpus({0, 1, 2, 3}, {1}, 2) == {0, 2}
    with pytest.raises(NoDevice, match="needs 2 GPUs, 1 of 2 are free"):
        choose_gpus({0, 1}, {1}, 2)


def test_llamacpp_is_the_package_that_carries_it() -> None:
    pytest.importorskip("xllamacpp")
    require_engine(program("llamacpp", version=version("xllamacpp")))

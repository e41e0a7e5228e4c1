"""The command line that confines a child."""

import sys
from pathlib import Path

import pytest

import node
from tandem.process import Confinement, Limits, python_command, python_runtime
from tandem.process.confinement import command, environment
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import ConfigurationError

LIMITS = Limits(memory_mib=64, wall_seconds=1, cpu_seconds=3, file_bytes=4096)


def after(argv: list[str], word: str) -> str:
    return argv[argv.index(word) + 1]


@pytest.mark.parametrize("sandbox", Sandbox)
def test_every_child_dies_with_its_parent_and_has_its_limits(sandbox: Sandbox) -> None:
    argv = command(["/bin/true", "--flag"], LIMITS, Confinement(sandbox))
    assert after(argv, "--pdeathsig") == "KILL"
    assert {"--core=0", "--cpu=3:8", "--fsize=4096"} <= set(argv)
    assert argv[-2:] == ["/bin/true", "--flag"]


def test_limits_that_are_not_given_are_not_set() -> None:
    argv = command(["/bin/true"], Limits(memory_mib=64, wall_seconds=None), Confinement(Sandbox.LIMITS))
    assert not [word for word in argv if word.startswith(("--cpu", "--fsize"))]


def test_the_sandbox_shows_the_named_files_alone() -> None:
    confinement = Confinement(Sandbox.BUBBLEWRAP, readable=(Path("/srv/in"),), writable=(Path("/srv/out"),))
    argv = command(["/bin/true"], LIMITS, confinement)
    text = " ".join(argv)
    assert "--unshare-all --die-with-parent --cap-drop ALL" in text
    assert "--ro-bind /srv/in /srv/in --bind /srv/out /srv/out --remount-ro /dev --remount-ro / " in text
    assert "--ro-bind /sys" not in text


def test_the_gpu_is_bound_only_when_asked_for() -> None:
    argv = command(["/bin/true"], LIMITS, Confinement(Sandbox.BUBBLEWRAP, gpu=True))
    assert "--ro-bind-try /sys /sys" in " ".join(argv)


def test_the_parents_variables_stay_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_KEY", "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert set(environment(Confinement(Sandbox.LIMITS))) == {"PATH", "LANG", "HOME"}
    assert environment(Confinement(Sandbox.LIMITS, gpu=True))["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(("sandbox", "package"), [(sandbox, "util-linux") for sandbox in Sandbox])
def test_a_missing_launcher_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, package: str
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigurationError, match=package):
        command(["/bin/true"], LIMITS, Confinement(sandbox))


def test_a_module_runs_in_this_interpreter_with_its_packages_in_sight() -> None:
    assert python_command("node.main", "x") == [sys.executable, "-I", "-B", "-m", "node.main", "x"]
    runtime = python_runtime(node)
    assert Path(sys.prefix) in runtime
    assert {Path(folder) for folder in node.__path__} <= set(runtime)


def test_what_runs_in_the_background_gives_way() -> None:
    limits = Limits(memory_mib=64, wall_seconds=5, background=True)
    words = command(["/usr/bin/true"], limits, Confinement(Sandbox.LIMITS))
    assert (Path(words[0]).name, words[1:3]) == ("nice", ["-n", "10"])

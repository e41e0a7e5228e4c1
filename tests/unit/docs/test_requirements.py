"""What is installed is what pyproject.toml asks for, pinned and checked."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = ("cpu", "gpu", "dev")


def pinned(name: str) -> dict[str, str]:
    """Versions by package, of one file; of one that has several, the last."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    return {
        canonicalize_name(package): version for package, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("name", FILES)
def test_every_dependency_is_pinned_to_a_version_that_fits(name: str) -> None:
    versions = pinned(name)
    for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][name]]:
        wanted = Requirement(line)
        assert versions[canonicalize_name(wanted.name)] in wanted.specifier, "run `make lock`"


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_a_hash_and_no_index(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8")
    pins = [block for block in re.split(r"\n(?=[\w.-]+==)", text) if re.match(r"[\w.-]+==", block)]
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text


def test_the_files_agree_where_they_share_a_package() -> None:
    cpu = pinned("cpu")
    for name in ("gpu", "dev"):
        assert {package: cpu[package] for package in cpu.keys() & pinned(name).keys()} == {
            package: version for package, version in pinned(name).items() if package in cpu
        }


def test_each_build_of_onnxruntime_stands_alone() -> None:
    builds = {name: {package for package in pinned(name) if package.startswith("onnxruntime")} for name in FILES}
    assert builds == {"cpu": {"onnxruntime"}, "gpu": {"onnxruntime-gpu"}, "dev": set()}

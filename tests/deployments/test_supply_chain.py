"""Supply of an installation: which wheels are built, what the image's lock pins, and the bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from declared import ROOT, needed, project
from packaging.markers import Marker
from packaging.utils import canonicalize_name
from plain_installs import PlainInstall

LOCK = ROOT / "deploy" / "requirements.lock"
PINNED = re.compile(r"^(\S+)==(\S+)(?: ; (.+?))? \\$", re.MULTILINE)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = {"linux": ("x86_64", "aarch64"), "macos": ("x86_64", "arm64")}


def pinned() -> dict[str, str]:
    """Versions that the lock has for this interpreter, by name."""
    found = {}
    for name, version, marker in PINNED.findall(LOCK.read_text()):
        if not marker or Marker(marker).evaluate():
            found[canonicalize_name(name)] = version
    return found


def test_the_lock_has_all_that_the_image_needs_within_the_bounds_of_pyproject() -> None:
    locked = pinned()
    wanted = needed(project(), "embedded")
    assert len(wanted) > 20
    assert wanted.keys() <= locked.keys()
    apart = {
        str(requirement): locked[name]
        for name, requirements in wanted.items()
        for requirement in requirements
        if not requirement.specifier.contains(locked[name])
    }
    assert apart == {}


def test_every_version_of_the_lock_has_its_hashes() -> None:
    head, *versions = re.split(r"^(?=\S+==)", LOCK.read_text(), flags=re.MULTILINE)
    assert all(line.startswith("#") for line in head.splitlines())
    assert len(versions) == len(PINNED.findall(LOCK.read_text())) > 20
    for version in versions:
        assert re.fullmatch(r"\S+==\S+( ; .+?)? \\\n( {4}--hash=sha256:[0-9a-f]{64}( \\)?\n)+", version), (
            version
        )


@pytest.mark.parametrize("system", MACHINES)
def test_wheels_are_built_for_every_python_and_machine(system: str) -> None:
    cibuildwheel = "import sys; from cibuildwheel.__main__ import main; sys.exit(main())"
    tag = {"linux": "manylinux", "macos": "macosx"}[system]
    for machine in MACHINES[system]:
        flags = ("--print-build-identifiers", "--platform", system, "--archs", machine, str(ROOT))
        printed = subprocess.run(
            [sys.executable, "-c", cibuildwheel, *flags], capture_output=True, text=True, check=True
        ).stdout.split()
        assert {f"cp{python.replace('.', '')}-{tag}_{machine}" for python in PYTHONS} <= set(printed)


def test_the_pythons_that_are_named_are_those_that_are_built_and_tested() -> None:
    classifiers = [" ".join(project(where)["classifiers"]) for where in (ROOT, ROOT / "clients" / "python")]
    named = {tuple(re.findall(r"Python :: (3\.\d+)", each)) for each in classifiers}
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["build"]
    assert named == {PYTHONS}
    assert tuple(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == PYTHONS
    assert tuple(built) == tuple(f"cp{python.replace('.', '')}-*" for python in PYTHONS)


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    """`cyclonedx_py` checks what it made by the schema of CycloneDX, and fails where it does not keep to it."""
    install = PlainInstall(tmp_path, needed(project(), "server"))
    install.add_checkout()
    file = tmp_path / "out" / "sbom.json"
    command = ["just", "sbom", str(file), str(install.interpreter)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    bill = json.loads(file.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "bandit-serve")
    listed = {canonicalize_name(each["name"]): each["version"] for each in bill["components"]}
    assert listed.pop("bandit-serve", project()["version"]) == project()["version"]
    assert listed == {name: metadata.version(name) for name in needed(project(), "server")}

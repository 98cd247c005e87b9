"""Installations without the extra `server`: what works, and what says that it is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from declared import ROOT, needed, project
from plain_installs import PlainInstall

OF_SERVER = {"aiohttp", "multidict", "prometheus-client", "uvloop", "yarl"}
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    print(name, None)
    for each in pkgutil.walk_packages(package.__path__, name + "."):
        if not each.name.endswith("__main__"):
            try:
                importlib.import_module(each.name)
            except ImportError as error:
                print(each.name, error.name)
"""
LIBRARY = """
from bandit_serve import models, results
from bandit_serve.policies import Thompson
policy = Thompson(n_arms=2, seed=0)
policy.update(0, 1.0)
print(round(float(policy.shares()[0]), 9), results.__name__, models.__name__)
"""
CLIENT = """
import sys, bandit_serve_client
bandit_serve_client.SyncClient("http://127.0.0.1:1").close()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"aiohttp", "h11", "numpy"}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> PlainInstall:
    """What `pip install .` gives."""
    install = PlainInstall(tmp_path_factory.mktemp("library"), needed(project()))
    install.add_checkout()
    return install


def test_the_server_s_libraries_come_with_its_extra_alone() -> None:
    assert not OF_SERVER & needed(project()).keys()
    for extra in ("server", "embedded", "test"):
        assert needed(project(), extra).keys() >= OF_SERVER, extra
    assert needed(project(ROOT / "clients" / "python")).keys() == {"h11"}


def test_all_but_the_server_is_imported_without_them(library: PlainInstall) -> None:
    ran = library.python("-c", IMPORT_ALL, "bandit_serve", "bandit_serve_client")
    assert ran.returncode == 0, ran.stderr
    missing = dict(line.split() for line in ran.stdout.splitlines())
    assert missing.pop("bandit_serve") == missing.pop("bandit_serve_client") == "None"
    assert missing.pop("bandit_serve_client.openfeature") == "openfeature"
    assert {name for name in missing if not name.startswith("bandit_serve.server")} == set()
    assert {"bandit_serve.server.lane", "bandit_serve.server.worker"} <= missing.keys()
    assert set(missing.values()) <= {"aiohttp", "multidict", "prometheus_client", "uvloop"}


def test_the_library_works_without_them(library: PlainInstall) -> None:
    ran = library.python("-c", LIBRARY)
    assert ran.stdout.split() == ["0.666666667", "bandit_serve.results", "bandit_serve.models"], ran.stderr


@pytest.mark.parametrize("words", [("serve", "--data", "d"), ("demo", "--offline", "--data", "d")])
def test_what_serves_says_that_they_are_missing(library: PlainInstall, words: tuple[str, ...]) -> None:
    ran = library.python("-m", "bandit_serve", *words)
    assert (ran.returncode, ran.stdout) == (2, ""), ran
    assert ran.stderr.startswith("error: The service can not start: aiohttp is missing; "), ran.stderr
    assert "pip install 'bandit-serve[server]'" in ran.stderr
    assert not (library.folder / "d").exists()


def test_doctor_says_that_they_are_missing(library: PlainInstall, tmp_path: Path) -> None:
    store = ("--store", "redis://127.0.0.1:1")
    ran = library.python("-m", "bandit_serve", "doctor", "--json", "--data", str(tmp_path), *store)
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    assert (checks["packages"]["verdict"], checks["server"]["verdict"]) == ("ok", "warning")
    assert "prometheus-client is missing" in checks["server"]["detail"]
    assert "bandit-serve[server]" in checks["server"]["advice"]


@pytest.mark.parametrize("version", ["3.13.9", "3.15.0"])
def test_a_version_that_the_lane_was_not_tested_with_is_refused(tmp_path: Path, version: str) -> None:
    install = PlainInstall(tmp_path, needed(project(), "server").keys() - {"aiohttp"})
    install.add_checkout()
    install.add_metadata("aiohttp", version)
    ran = install.python("-m", "bandit_serve", "serve", "--data", "d")
    assert ran.returncode == 2, ran
    assert f"aiohttp is {version}, and " in ran.stderr


def test_the_client_needs_neither_them_nor_the_library(tmp_path: Path) -> None:
    install = PlainInstall(tmp_path, needed(project(ROOT / "clients" / "python")))
    (tmp_path / "bandit_serve_client").symlink_to(ROOT / "clients" / "python" / "bandit_serve_client")
    ran = install.python("-c", CLIENT)
    assert ran.stdout.split() == ["['h11']"], ran.stderr

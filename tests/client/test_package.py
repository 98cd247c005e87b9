"""Distribution of the client: what is in it, what it needs, and that the client for threads is that for asyncio."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import bandit_serve_client
import pytest
from documents import ROOT
from services import clean_environment

import bandit_serve

FOLDER = ROOT / "clients" / "python"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
SERVICE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAX_BYTES = 5_000_000


def test_versions_are_one() -> None:
    assert (
        PROJECT["version"]
        == SERVICE["version"]
        == bandit_serve_client.__version__
        == bandit_serve.__version__
    )


def test_the_service_s_distribution_needs_what_the_client_needs() -> None:
    assert set(PROJECT["dependencies"]) <= set(SERVICE["dependencies"])
    assert PROJECT["optional-dependencies"]["openfeature"] == SERVICE["optional-dependencies"]["openfeature"]


def test_the_client_for_threads_is_made_of_that_for_asyncio(tmp_path: Path) -> None:
    copied = tmp_path / "clients" / "python"
    shutil.copytree(FOLDER, copied)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run([sys.executable, str(copied / "make_sync.py")], check=True)
    made = sorted(path.relative_to(FOLDER) for path in FOLDER.rglob("sync_*.py"))
    assert len(made) == 4
    for path in made:
        text = (FOLDER / path).read_text()
        assert text == (copied / path).read_text(), "run python clients/python/make_sync.py"
        assert "await" not in text
        assert "async" not in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = tmp_path_factory.mktemp("source") / "client"
    subprocess.run(["cp", "-rL", str(FOLDER), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (made_wheel,) = folder.glob("*.whl")
    return made_wheel


def test_the_wheel_is_pure_and_has_every_module(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("bandit_serve_client/")}
    package = FOLDER / "bandit_serve_client"
    sources = {path.relative_to(FOLDER).as_posix() for path in package.rglob("*.py")}
    assert names == {*sources, "bandit_serve_client/py.typed"}


def test_it_works_beside_nothing_but_its_dependencies(wheel: Path, tmp_path: Path) -> None:
    """Neither NumPy nor aiohttp, nor anything else of the service."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    folders = {path.name for path in site.iterdir() if path.is_dir() and not path.name.endswith(".dist-info")}
    assert folders == {"bandit_serve_client", "h11"}
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < MAX_BYTES
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import bandit_serve_client, bandit_serve_client.middleware.asgi
import bandit_serve_client.middleware.wsgi, bandit_serve_client.middleware.aiohttp
own = {{"bandit_serve_client", "h11"}}
print({{name.partition(".")[0] for name in sys.modules}} - set(sys.stdlib_module_names) - own)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "{'__main__'}\n" or done.stdout == "set()\n"


def test_both_distributions_hold_the_same_package() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert "clients/python" in found["where"]
    assert Path(bandit_serve_client.__file__).parent == FOLDER / "bandit_serve_client"


def test_openfeature_is_said_to_be_missing_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "openfeature").mkdir()
    (tmp_path / "openfeature" / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import bandit_serve_client.openfeature"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "openfeature" in done.stderr

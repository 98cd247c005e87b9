"""Imports run downward only, as the architecture says."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import bandit_serve

ROOT = Path(bandit_serve.__file__).parent

# A package or module a line, from the bottom up: what it may import beside itself, `errors` and `base`.
MAY_IMPORT = {
    "errors": "",
    "base": "errors",
    "processes": "",
    "webhook": "",
    "settings": "webhook",
    "metrics": "",
    "policies": "metrics",
    "experiments": "metrics policies",
    "log": "experiments",
    "models": "",
    "results": "metrics experiments log policies",
    "pictures": "experiments results",
    "store": "processes log",
    "upstreams": "",
    "registry": "settings experiments log models store upstreams",
    "folds": "experiments log policies store registry",
    "api": "experiments models upstreams registry folds",
    "serving": "models store upstreams registry api",
    "replication": "experiments log results store registry folds",
    "changes": "metrics experiments log policies models results store upstreams registry folds serving replication",
    "node": "settings models store upstreams registry folds serving replication changes",
    "export": "experiments log policies results folds node",
    "evaluation": "experiments policies results export folds node",
    "backup": "log store registry replication node",
    "notices": "webhook experiments log results store upstreams registry folds replication",
    "upkeep": "experiments log results store registry folds replication changes",
    "decisions": "experiments log policies store registry folds api serving",
    "rewards": "experiments log store folds replication api",
    "training": "experiments log models store registry folds node notices",
    "scoring": "processes models store registry replication node api serving decisions export training",
    "promotions": "experiments results store registry folds changes node export evaluation training",
    "simulation": "processes metrics experiments log policies pictures folds",
    "dashboard": "experiments pictures results registry api simulation",
    "client": "",
    "deployments": "settings experiments models store upstreams registry changes node api",
    "demo": "client processes settings models training",
    "server": "processes settings metrics experiments log policies models results pictures store upstreams registry "
    "folds serving replication changes node notices upkeep api dashboard decisions rewards promotions deployments "
    "simulation",
    "cli": "webhook processes settings experiments log policies models results pictures store upstreams registry folds "
    "replication changes node export evaluation backup notices api rewards training scoring promotions simulation "
    "deployments demo server",
    "__main__": "cli",
}
ONLY = {
    "aiohttp": {"server", "upstreams"},
    "redis": {"store"},
    "prometheus_client": {"server"},
    "typer": {"cli"},
}


def modules() -> list[Path]:
    paths = sorted(path for path in ROOT.rglob("*.py"))
    assert len(paths) > 50
    return paths


def part_of(module: str) -> str:
    """Package that a module belongs to: `store` for `bandit_serve.store.keys`."""
    return module.removeprefix("bandit_serve").removeprefix(".").split(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports; `from a import b` is `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what depends on what"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(path: Path) -> set[str]:
    parts = {part_of(name) for name in imported(path) if name.split(".")[0] == "bandit_serve"}
    # A name of the package itself, such as its version, is of no part.
    return {part for part in parts if part in MAY_IMPORT} - {part_of(name_of(path))}


def test_every_part_has_its_line() -> None:
    assert {part_of(name_of(path)) for path in modules()} == {"", *MAY_IMPORT}


def test_what_a_line_allows_is_above_it() -> None:
    above: set[str] = set()
    for part, allowed in MAY_IMPORT.items():
        assert set(allowed.split()) <= above
        above.add(part)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_else_is_imported(path: Path) -> None:
    allowed = {"errors", "base"} if part_of(name_of(path)) not in ("errors", "base") else set()
    allowed |= set(MAY_IMPORT.get(part_of(name_of(path)), "").split())
    assert ours(path) <= allowed


def test_every_line_is_needed() -> None:
    used: dict[str, set[str]] = {part: set() for part in MAY_IMPORT}
    for path in modules():
        used.setdefault(part_of(name_of(path)), set()).update(ours(path) - {"errors", "base"})
    for part, allowed in MAY_IMPORT.items():
        assert used[part] | ({"errors"} & set(allowed.split())) == set(allowed.split()), part


@pytest.mark.parametrize("package", sorted(ONLY))
def test_what_only_one_part_knows(package: str) -> None:
    users = set()
    for path in modules():
        if any(name.split(".")[0] == package for name in imported(path)):
            place = path.relative_to(ROOT).with_suffix("").as_posix()
            assert any(place == allowed or place.startswith(f"{allowed}/") for allowed in ONLY[package]), (
                place
            )
            users.add(place)
    assert users


def test_the_python_library_needs_neither_server_nor_store() -> None:
    """`from bandit_serve.policies import …` and `.models` are for scripts, too."""
    for part in ("policies", "training", "results"):
        for path in set((ROOT / part).rglob("*.py")) - set((ROOT / "training" / "learning").rglob("*.py")):
            outside = {name.split(".")[0] for name in imported(path)}
            assert not outside & {"aiohttp", "redis", "asyncio", "typer"}, path


def test_nothing_takes_long_to_import_that_only_tests_need() -> None:
    """SciPy took a fifth of the start of every process."""
    packages = {name.split(".")[0] for path in modules() for name in imported(path)}
    assert "numpy" in packages
    assert "scipy" not in packages


def test_only_a_node_wires_a_process() -> None:
    """`changes.repair` folds results of repairs that are in no log yet; it is no process of its own."""
    parts = {
        "Tail",
        "ResultsLog",
        "ExposuresLog",
        "LoadedModels",
        "Changes",
        "ExperimentChanges",
        "ModelChanges",
        "open_artifacts",
    }
    wired: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in parts:
                wired.setdefault(name_of(path), set()).add(node.func.id)
    assert wired.pop("bandit_serve.changes.repair") == {"ResultsLog"}
    assert wired == {"bandit_serve.node": parts}

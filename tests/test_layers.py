"""Imports run downward only, as the architecture says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bandit_serve

ROOT = Path(bandit_serve.__file__).parent

# From the bottom up. What stands on one line may import each other, unless `STRANGERS` says otherwise.
LAYERS = [
    {
        "aligned",
        "concealed",
        "documents",
        "errors",
        "extras",
        "lenient",
        "parent",
        "printable",
        "states",
        "times",
        "troubles",
        "turn",
        "",
    },
    {"logs", "names", "own_files", "terminal"},
    {"durations", "mistakes"},
    {"experiment", "settings", "validation"},
    {"events", "token"},
    {
        "store",
        "policies",
        "models",
        "results",
        "training",
        "alarms",
        "delays",
        "joined",
        "pending",
        "repairs",
    },
    {"live"},
    {"simulation"},
    {"replica", "log", "views"},
    {"decisions", "rewards"},
    {"server", "client"},
    {"demo"},
    {"cli", "__main__"},
]
STRANGERS = [("decisions", "rewards"), ("policies", "store"), ("policies", "models"), ("results", "store")]
ONLY = {
    "aiohttp": {"server", "client", "demo"},
    "redis": {"store"},
    "prometheus_client": {"server"},
    "typer": {"cli"},
}


def modules() -> list[Path]:
    found = sorted(path for path in ROOT.rglob("*.py"))
    assert len(found) > 50
    return found


def part_of(module: str) -> str:
    """`bandit_serve.store.keys` is of `store`; a kernel is of no layer."""
    return module.removeprefix("bandit_serve").removeprefix(".").split(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Every module that is imported, anywhere in the file, in full: `from a import b` is `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what depends on what"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(part: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


def ours(path: Path) -> set[str]:
    parts = {part_of(name) for name in imported(path) if name.split(".")[0] == "bandit_serve"}
    known = {part for parts in LAYERS for part in parts}
    # A name of the package itself, such as its version, or a kernel.
    return {part for part in parts if part in known and not part.startswith("_")}


def test_every_part_has_its_layer() -> None:
    known = {part for parts in LAYERS for part in parts}
    assert {part_of(name_of(path)) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_run_downward(path: Path) -> None:
    part = part_of(name_of(path))
    for other in ours(path):
        assert layer(other) <= layer(part), f"{name_of(path)} imports {other}, which is above it"
        if other != part:
            assert (part, other) not in STRANGERS
            assert (other, part) not in STRANGERS


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
        for path in (ROOT / part).rglob("*.py"):
            outside = {name.split(".")[0] for name in imported(path)}
            assert not outside & {"aiohttp", "redis", "asyncio", "typer"}, path


def test_nothing_takes_long_to_import_that_only_tests_need() -> None:
    """SciPy took a fifth of the start of every process."""
    found = {name.split(".")[0] for path in modules() for name in imported(path)}
    assert "numpy" in found
    assert "scipy" not in found

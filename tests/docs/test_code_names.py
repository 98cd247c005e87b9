"""Names and first words in the code, as CONTRIBUTING's section on prose asks for them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from documents import ROOT


def sources(folder: str) -> dict[str, ast.Module]:
    """Modules below a folder of the repository, by their paths."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for suffix in ("*.py", "*.pyi")
        for path in sorted((ROOT / folder).rglob(suffix))
    }


SOURCES = sources("bandit_serve")
WITH_CLIENTS = SOURCES | sources("clients")
OPENING = re.compile(r"(What|The|How|Which|Whether|Where|Who|All|From)\b")
BOUND = re.compile(r"_?(MOST|LARGEST|LEAST|FEWEST|SMALLEST)_")
# Names of two classes, each with its reason.
SHARED = {
    "Linear": "a simulated world, by the name of its kind; and the kernel that contextual policies share"
}


def constants(module: ast.Module) -> list[str]:
    """Names that are assigned at the top of a module or of a class in it."""
    bodies = [module.body, *(node.body for node in ast.walk(module) if isinstance(node, ast.ClassDef))]
    assigned = [node for body in bodies for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [
        target
        for node in assigned
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def test_modules_open_with_a_noun_or_a_verb() -> None:
    openings = {name: ast.get_docstring(module) or "" for name, module in WITH_CLIENTS.items()}
    assert sum(map(bool, openings.values())) > 200
    assert [name for name, text in openings.items() if OPENING.match(text)] == []


def test_bounds_are_named_max_or_min() -> None:
    names = {(name, constant) for name, module in WITH_CLIENTS.items() for constant in constants(module)}
    assert any(constant.startswith("MAX_") for _, constant in names)
    assert sorted(each for each in names if BOUND.match(each[1])) == []


def test_each_public_class_has_a_name_of_its_own() -> None:
    modules = defaultdict(list)
    for name, module in SOURCES.items():
        for node in module.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(name)
    assert len(modules) > 200
    assert {name: among for name, among in modules.items() if len(among) > 1 and name not in SHARED} == {}


def test_shared_names_are_shared() -> None:
    names = [
        node.name for module in SOURCES.values() for node in module.body if isinstance(node, ast.ClassDef)
    ]
    assert [name for name in SHARED if names.count(name) < 2] == []

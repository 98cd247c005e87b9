"""TypeScript of the documents: types from the served description by the real openapi-typescript, checked by tsc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from api_schemas import API_DESCRIPTION
from documents import Document

PACKAGES = ("openapi-typescript@7", "typescript@5")
(EXAMPLE,) = [block.text for block in Document("docs/client.md").blocks if block.language == "ts"]
CHECK = [
    "tsc",
    "--noEmit",
    "--strict",
    "--target",
    "es2022",
    "--module",
    "es2022",
    "--moduleResolution",
    "bundler",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tools, and with `api.ts` made of the description."""
    folder = tmp_path_factory.mktemp("typescript")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=100)
    (folder / "openapi.json").write_text(json.dumps(API_DESCRIPTION))
    made = run(folder, "openapi-typescript", "openapi.json", "-o", "api.ts")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def run(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "node_modules" / ".bin" / tool), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def mistakes(folder: Path, text: str) -> str:
    (folder / "client.ts").write_text(text)
    return run(folder, *CHECK, "client.ts").stdout


def test_the_example_has_the_types_of_the_description(project: Path) -> None:
    assert mistakes(project, EXAMPLE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("decision.decision_id, value", "decision.decision_id, values: value", "values"),
        ("{ unit }", "{ unit: 7 }", "number"),
        ("if (decision.decision_id === null) return null;", "", "null"),
        ('Schemas["Decided"]', 'Schemas["Chosen"]', "Chosen"),
    ],
)
def test_what_does_not_fit_is_found(project: Path, right: str, wrong: str, says: str) -> None:
    assert right in EXAMPLE
    assert says in mistakes(project, EXAMPLE.replace(right, wrong))

"""TypeScript of the documents: types from the served description by the real openapi-typescript, checked by tsc."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from api_schemas import API_DESCRIPTION
from documents import Document
from npm_packages import npm_folder

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
    """A folder with `api.ts`, made of the description."""
    folder = tmp_path_factory.mktemp("typescript")
    (folder / "openapi.json").write_text(json.dumps(API_DESCRIPTION))
    made = run(folder, "openapi-typescript", "openapi.json", "-o", "api.ts")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def run(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(npm_folder() / "node_modules" / ".bin" / tool), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


WRONG = {
    "values": ("decision.decision_id, value", "decision.decision_id, values: value"),
    "number": ("{ unit }", "{ unit: 7 }"),
    "null": ("if (decision.decision_id === null) return null;", ""),
    "Chosen": ('Schemas["Decided"]', 'Schemas["Chosen"]'),
}
"""Changes of the example that do not fit the description, by a word of what is said of them."""


def test_the_example_has_the_types_of_the_description(project: Path) -> None:
    """One run of tsc, as its start takes most of its time: the example as it is, and each change of it."""
    (project / "client.ts").write_text(EXAMPLE)
    for word, (right, wrong) in WRONG.items():
        assert right in EXAMPLE
        (project / f"{word}.ts").write_text(EXAMPLE.replace(right, wrong))
    lines = run(project, *CHECK, "client.ts", *(f"{word}.ts" for word in WRONG)).stdout.splitlines()
    assert [line for line in lines if line.startswith("client.ts")] == []
    for word in WRONG:
        assert any(line.startswith(f"{word}.ts") and word in line.partition(": ")[2] for line in lines), lines

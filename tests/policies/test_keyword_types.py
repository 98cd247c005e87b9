"""Keywords of policies' constructors, as type checkers see them: those that the constructors take, and no others."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bandit_serve.policies import POLICIES, keywords
from bandit_serve.policies.keyword_types import KEYWORDS, keywords_module

ROOT = Path(__file__).parents[2]
# With a cache of its own: others may check the tree at the same time.
MYPY = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"]
VALUES = {
    "int": "1",
    "float": "0.5",
    "str": '"1h"',
    "ByArm": "[1.0, 2.0]",
    "Mapping[str, Any]": '{"n": 1.0, "mean": [0.5, 0.5]}',
    "Mapping[str, ByArm | None]": '{"alpha": 1.0, "beta": {0: 2.0}}',
    "ArrayLike": "[[1.0], [2.0]]",
}


def types_of(kind: str) -> dict[str, str]:
    """Types of all keywords of a kind, by name, as `keywords.py` has them."""
    typed = getattr(keywords, f"{POLICIES[kind].__name__}Keywords")
    return {name: reference.__forward_arg__ for name, reference in typed.__annotations__.items()}


def test_the_keywords_are_those_of_the_declarations():
    assert KEYWORDS.read_text() == keywords_module(), "python -m bandit_serve.policies.keyword_types"


@pytest.mark.parametrize("kind", POLICIES)
def test_the_keywords_are_those_of_the_signature(kind):
    given = inspect.signature(POLICIES[kind]).parameters.values()
    assert set(types_of(kind)) == {each.name for each in given if each.kind is each.KEYWORD_ONLY}


def test_a_type_checker_knows_the_keywords_of_every_kind(tmp_path):
    lines = ["from bandit_serve import policies"]
    wrong = {}
    for kind, policy in POLICIES.items():
        made = f"policies.{policy.__name__}({'2, 1' if policy.contextual else '2'}"
        types = types_of(kind)
        keywords = [f"{name}={VALUES[each.removesuffix(' | None')]}" for name, each in types.items()]
        nulls = [f"{name}=None" for name, each in types.items() if each.endswith(" | None")]
        lines += [f"{made}, {', '.join(keywords)})", f"{made}, {', '.join(nulls)})"]
        for fault in ("no_such=1", *(f"{name}=object" for name in types)):
            lines.append(f"{made}, {fault})")
            wrong[len(lines)] = lines[-1]
    path = tmp_path / "calls.py"
    path.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [*MYPY, "--cache-dir", str(tmp_path / "cache"), str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    refused = {
        int(line.split(":")[1])
        for line in done.stdout.splitlines()
        if line.startswith(str(path)) and " error: " in line
    }
    assert refused == set(wrong), done.stdout + done.stderr

"""Policies that are named on a command line, or in a file."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import msgspec

from bandit_serve.base.validation import field_error
from bandit_serve.cli.described import as_json as json_of
from bandit_serve.cli.described import read_described
from bandit_serve.errors import FieldError, UsageError
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.policies import POLICIES

MAX_CANDIDATES = 100
Named = list[tuple[str, PolicySpec]]


def named_policies(given: list[str]) -> Named:
    """Policies of kinds, shares and files, with their names. Raises `UsageError` for anything else."""
    named: Named = []
    for text in given:
        if text in POLICIES:
            named.append((text, PolicySpec(kind=text)))
        elif "=" in text and not Path(text).exists():
            named.append((text, _spec("--policy", {"shares": _shares(text)})))
        else:
            named += policies_in(Path(text))
    names = [name for name, _ in named]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise UsageError(f"--policy: {repeated!r} is there twice.")
    return named


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        arm, _, number = part.rpartition("=")
        try:
            shares[arm.strip()] = float(number)
        except ValueError:
            raise UsageError(f"--policy: expected shares such as a=0.2,b=0.8, not {text[:80]!r}.") from None
    return shares


def policies_in(path: Path) -> Named:
    """Policies of a file, with their names: one, several, or those of a grid. Raises `UsageError` for anything else."""
    if not path.suffix:
        kinds = ", ".join(POLICIES)
        raise UsageError(
            f"--policy: expected a file, shares such as a=0.2,b=0.8, or one of {kinds}; not {path}."
        )
    document = read_described(path)
    if not isinstance(document, dict) or not document:
        raise UsageError(f"--policy: expected a policy, or several by their names, in {path}.")
    if "kind" in document or "shares" in document:
        document = {path.stem: document}
    return [
        (name, _spec(f"{path}: {name}", each))
        for stem, policy in document.items()
        for name, each in _expanded(path, str(stem), policy)
    ]


def _expanded(path: Path, name: str, policy: Any) -> list[tuple[str, Any]]:
    """Policies of a grid, one for each combination of the values that it lists by parameter; itself without one."""
    if not isinstance(policy, dict) or "grid" not in policy:
        return [(name, policy)]
    grid = policy["grid"]
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise UsageError(f"{path}: {name}: grid: expected a list of values for each parameter.")
    n_policies = math.prod(map(len, grid.values()))
    if n_policies > MAX_CANDIDATES:
        raise UsageError(
            f"{path}: {name}: grid: expected {MAX_CANDIDATES} policies at most, not {n_policies}."
        )
    rest = {key: value for key, value in policy.items() if key != "grid"}
    return [
        (
            " ".join([name, *(f"{key}={value}" for key, value in zip(grid, values, strict=True))]),
            {**rest, **dict(zip(grid, values, strict=True))},
        )
        for values in itertools.product(*grid.values())
    ]


def _spec(at: str, document: Any) -> PolicySpec:
    """Policy of a document. Shares alone are a fixed split."""
    if isinstance(document, dict) and "shares" in document:
        document = {"kind": "fixed_split", **document}
    try:
        return msgspec.convert(msgspec.json.decode(json_of(document)), PolicySpec)
    except msgspec.ValidationError as error:
        wrong = field_error(error)
        raise UsageError(f"{at}: {wrong.at}: {wrong.detail}.", [FieldError(wrong.at, wrong.detail)]) from None

"""`bandit-serve …` commands as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from services import clean_environment

from bandit_serve.models import Popularity

LIMIT_S = 60.0


class Finished(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def bandit_serve(
    *arguments: str | Path, environment: Mapping[str, str] | None = None, stdin: str = ""
) -> Finished:
    """Runs a command to its end; of our settings, only those in `environment` are set."""
    done = subprocess.run(
        [sys.executable, "-m", "bandit_serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**clean_environment(), "COLUMNS": "80", **(environment or {})},
        input=stdin,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


def save_model(path: Path, ratings: tuple[float, ...] = (4.0, 5.0, 3.0)) -> Path:
    """Saves a small model file, whose content depends on `ratings`."""
    users, items = np.arange(len(ratings)), np.arange(len(ratings)) % 2
    Popularity().fit(users, items, np.array(ratings)).save(path)
    return path

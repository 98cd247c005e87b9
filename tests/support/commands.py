"""`bandit-serve …` commands as processes of their own, forked from one that has imported what they need."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from services import clean_environment

from bandit_serve.cli.main import COMMANDS, run
from bandit_serve.models import Popularity

LIMIT_S = 120.0
PATH = os.environ.get("PYTHONPATH")
OF_POOLS = {"--workers", "train", "learn", "demo", "serve"}
STREAMS = (("in", os.O_RDONLY), ("out", os.O_WRONLY | os.O_CREAT), ("err", os.O_WRONLY | os.O_CREAT))
FORKS = multiprocessing.get_context("forkserver")
# Imports take longer than most commands do: the processes that run them are forked from one that has made them.
FORKS.set_forkserver_preload([f"bandit_serve.cli.{where.partition('.')[0]}" for where in COMMANDS.values()])


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
    settings = {**clean_environment(), "COLUMNS": "80", **(environment or {})}
    as_this_one = os.environ.get("PYTHONPATH") == PATH and not OF_POOLS.intersection(map(str, arguments))
    run = _forked if as_this_one else _started
    done = run([str(each) for each in arguments], settings, stdin)
    assert "Traceback" not in done.err, done.err
    return done


def _started(arguments: list[str], settings: dict[str, str], stdin: str) -> Finished:
    """Runs a command whose Python starts otherwise than this one, or that starts pools of processes itself."""
    command = [sys.executable, "-m", "bandit_serve", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=settings, input=stdin
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def _forked(arguments: list[str], settings: dict[str, str], stdin: str) -> Finished:
    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder)
        (streams / "in").write_text(stdin)
        process = FORKS.Process(target=_command, args=(folder, os.getcwd(), arguments, settings))
        process.start()
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"bandit-serve {arguments} takes longer than {LIMIT_S:g} s")
        out, err = ((streams / name).read_text() for name in ("out", "err"))
    return Finished(process.exitcode, out, err)


def _command(folder: str, place: str, arguments: list[str], settings: dict[str, str]) -> None:
    os.chdir(place)
    for number, (name, flags) in enumerate(STREAMS):
        file = os.open(Path(folder, name), flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", closefd=False) for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(settings)
    sys.argv = ["bandit-serve", *arguments]

    run()


def save_model(path: Path, ratings: tuple[float, ...] = (4.0, 5.0, 3.0)) -> Path:
    """Saves a small model file, whose content depends on `ratings`."""
    users, items = np.arange(len(ratings)), np.arange(len(ratings)) % 2
    Popularity().fit(users, items, np.array(ratings)).save(path)
    return path

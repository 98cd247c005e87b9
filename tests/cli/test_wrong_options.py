"""Options with values that no command takes: wrong usage, before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import bandit_serve

RUN = ("deploy", "run", "shop", "--tag", "bandit-serve:none")


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "--scope", "serve", "--name", "x y"),
        ("keys", "create", "--scope", "serve", "--tenant", "bad tenant"),
        ("keys", "create", "--scope", "serve", "--expires", "-1d"),
        (*RUN, "--memory", "abc"),
        (*RUN, "--cpus", "-1"),
        (*RUN, "--wait", "bogus"),
        (*RUN, "--host", "no host"),
        (*RUN, "--port", "99999"),
        (*RUN, "--env", "NOEQ"),
        ("deploy", "run", "a b", "--tag", "bandit-serve:none"),
        ("deploy", "canary", "m", "v1", "--experiment", "e", "--guardrail", "bogus"),
        ("deploy", "canary", "m", "v1", "--experiment", "e", "--ramp", "bogus"),
    ],
    ids=" ".join,
)
def test_a_wrong_value_is_wrong_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    where = () if arguments[:2] == ("deploy", "canary") else ("--data", str(tmp_path / "data"))
    done = bandit_serve(*arguments, *where)
    assert done.status == 2, done
    assert done.err.strip()

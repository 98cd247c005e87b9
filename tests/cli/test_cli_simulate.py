"""`bandit-serve simulate`: from flags or a file to a table, JSON and a plot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from services import clean_environment
from stores import wait_until

SHORT = ("--horizon", "300", "--seeds", "3", "-p", "thompson", "-p", "ucb1")


def test_a_table_says_who_lost_what() -> None:
    ran = bandit_serve("simulate", "--arms", "0.5,0.4", *SHORT)
    assert (ran.status, ran.err) == (0, "")
    assert "2 Bernoulli arms, 0.5, 0.4: 300 decisions, 3 seeds" in ran.out
    for text in ("thompson", "ucb1", "Regret", "±", "Lai–Robbins"):
        assert text in ran.out


def test_json_is_repeatable_whatever_the_processes() -> None:
    command = ("simulate", "--arms", "0.5,0.4,0.1", *SHORT, "--json")
    one, two = (bandit_serve(*command, "--jobs", jobs) for jobs in ("1", "2"))
    assert (one.status, one.err) == (0, "")
    assert one.out == two.out
    report = one.document
    assert report["horizon"] == 300
    assert [each["name"] for each in report["policies"]] == ["thompson", "ucb1"]
    assert report["policies"][0]["regret"]["se"] > 0.0
    assert len(report["policies"][0]["curve"]) == len(report["decisions"])
    other = bandit_serve(*command, "--seed", "1").document
    assert other["policies"][0]["curve"] != report["policies"][0]["curve"]


def test_without_arguments_it_shows_what_it_is_for(tmp_path: Path) -> None:
    plot = tmp_path / "regret.html"
    ran = bandit_serve("simulate", "--plot", plot, "--seeds", "2", "--horizon", "200")
    assert ran.status == 0, ran.err
    assert f"Plot: {plot}" in ran.out
    html = plot.read_text()
    assert html.startswith("<!DOCTYPE html>")
    data = json.loads(html.split('id="report">')[1].split("</script>")[0])
    assert len(data["policies"]) >= 3


FLAGS: list[tuple[list[str], dict[str, Any]]] = [
    (["-e", "gaussian", "--arms", "0,0.2", "--sd", "2"], {"kind": "gaussian", "sd": 2.0}),
    (["--sd", "2", "--arms", "-1,0.2"], {"kind": "gaussian", "arms": [-1.0, 0.2]}),
    (["--arms", "0.1,0.2", "--drift", "0.1"], {"kind": "bernoulli", "drift": 0.1}),
    (["--change", "100:0.1,0.2", "--arms", "0.2,0.1"], {"changes": [{"at": 100, "arms": [0.1, 0.2]}]}),
    (["-e", "logistic", "--arms", "3", "--change", "100"], {"kind": "logistic", "arms": 3, "changes": [100]}),
    (["--noise", "0.1", "--features", "4"], {"kind": "linear", "noise": 0.1, "features": 4}),
]


@pytest.mark.parametrize(("flags", "expected"), FLAGS)
def test_flags_describe_an_environment(flags: list[str], expected: dict[str, Any]) -> None:
    ran = bandit_serve("simulate", *flags, "-p", "fixed_split", "--horizon", "200", "--seeds", "1", "--json")
    assert ran.status == 0, ran.err
    environment = ran.document["environment"]
    assert {name: environment[name] for name in expected} == expected


def test_delays_by_flags() -> None:
    ran = bandit_serve(
        "simulate",
        "--arms",
        "0.2,0.1",
        "--delay",
        "geometric:5,50",
        "--window",
        "90",
        "--lost",
        "0.1",
        *SHORT,
        "--json",
    )
    assert ran.status == 0, ran.err
    delay = ran.document["delay"]
    assert (delay["kind"], delay["mean"], delay["window"], delay["lost"]) == (
        "geometric",
        [5.0, 50.0],
        90,
        0.1,
    )


TOML = """
horizon = 200
seeds = 2
policies = ["thompson", {kind = "fixed_split", shares = [3, 1], name = "mostly the first"}]

[environment]
kind = "bernoulli"
arms = [0.5, 0.4]
"""
YAML = """
environment: {kind: supervised, csv: rows.csv, label: kind}
policies: [fixed_split]
seeds: 2
"""


def test_a_file_describes_it_and_flags_change_how_often(tmp_path: Path) -> None:
    toml = tmp_path / "a.toml"
    toml.write_text(TOML)
    ran = bandit_serve("simulate", toml, "--seeds", "1", "--json")
    assert ran.status == 0, ran.err
    assert [each["name"] for each in ran.document["policies"]] == ["thompson", "mostly the first"]
    assert (ran.document["seeds"], ran.document["horizon"]) == (1, 200)
    (tmp_path / "rows.csv").write_text("x,kind\n1,a\n2,b\n3,a\n")
    yaml = tmp_path / "b.yaml"
    yaml.write_text(YAML)
    supervised = bandit_serve("simulate", yaml, "--json")
    assert supervised.status == 0, supervised.err
    assert supervised.document["horizon"] == 3


@pytest.mark.parametrize("to_all", [True, False], ids=["a terminal's", "one process's"])
def test_ctrl_c_ends_every_process_at_once(to_all: bool) -> None:
    command = [sys.executable, "-m", "bandit_serve", "simulate", "--horizon", "100000000", "-p", "thompson"]
    process = subprocess.Popen(
        [*command, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        start_new_session=True,
    )
    wait_until(lambda: sum(map(_is_at_work, _group(process.pid))) >= 2, 90.0)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    wait_until(lambda: _group(process.pid) == [])


def _group(leader: int) -> list[int]:
    """Process ids of a session."""
    return [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _stat(pid)[2:3] == [str(leader)]
    ]


def _is_at_work(pid: int) -> bool:
    """Whether the process has used more CPU time than its imports take."""
    return sum(map(int, _stat(pid)[11:13])) > 3 * os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty for a process that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields if fields[0] != "Z" else []
    return []


# What a description can not have is in the tests of the description; here is one of each way to say it.
WRONG = [
    ("--arms 0.1,x", "--arms must be numbers"),
    ("--arms 0.1,2", "numbers from 0 to 1"),
    ("-e casino", "expected one of bernoulli"),
    ("-e linear --arms 0.1,0.2", "--arms must be a whole number"),
    ("-p thomson", "no policy 'thomson'"),
    ("-p exp3 -e gaussian --arms 0,1", "exp3 takes an objective"),
    ("--horizon 0", "horizon"),
    ("--change soon", "--change must be"),
    ("--window 5", "--window needs a --delay"),
    ("--delay often", "--delay must be numbers"),
    ("--csv nothing.csv --label y", "can not be read"),
    ("--plot .", "can not be written"),
    ("--plot no/such/place.html", "can not be written"),
    ("--plot regret.png", "--png regret.png"),
    ("none.toml", "can not be read"),
    ("bad.toml", "environment"),
    ("broken.json", "is not JSON"),
    ("bad.toml --arms 0.1", "does not go with it"),
]


@pytest.mark.parametrize(("arguments", "reason"), WRONG)
def test_wrong_usage_is_one_sentence(arguments: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("horizon = 3\n")
    (tmp_path / "broken.json").write_text("{")
    files = {"bad.toml", "broken.json"}
    words = [str(tmp_path / word) if word in files else word for word in arguments.split()]
    ran = bandit_serve("simulate", *words)
    assert (ran.status, ran.out) == (2, "")
    assert reason in ran.err
    assert ran.err.count("\n") == 1

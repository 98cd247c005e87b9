"""Alert rules and the unit for systemd: of metrics and commands that there are, and each alert with its section."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from documents import ROOT

from bandit_serve.cli.main import COMMANDS
from bandit_serve.deployments.manifests import grace_s
from bandit_serve.folds.replica import Replica
from bandit_serve.server.metrics import Counters, ServiceCollector, exposition
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.settings import Settings, load_settings

RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
UNIT = ROOT / "deploy" / "systemd" / "bandit-serve.service"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
]
OF_EXPERIMENTS = {"bandit_serve_alarms_total"}
"""Metrics that an experiment has, and so no service without one."""


def exposed() -> set[str]:
    text = exposition(ServiceCollector(Counters(ROUTE_LABELS), Replica(), lambda name: np.zeros(0))).decode()
    families = re.findall(r"# TYPE (\w+) (\w+)", text)
    samples = set(re.findall(r"^(\w+)(?:\{| )", text, re.MULTILINE))
    return samples | {name for name, _ in families}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_of_metrics_that_there_are(alert: dict[str, Any]) -> None:
    used = set(re.findall(r"bandit_serve_\w+", alert["expr"]))
    assert used or "up{" in alert["expr"]
    assert used - OF_EXPERIMENTS <= exposed()
    for route in re.findall(r'route="([^"]+)"', alert["expr"]):
        assert route in ROUTE_LABELS
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"]["summary"]


def test_each_alert_has_its_section_in_the_runbook() -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    sections = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        assert alert["annotations"]["runbook_url"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(RULES.read_text().replace("increase(", "increases(", 1))
    assert subprocess.run([promtool, "check", "rules", str(wrong)], capture_output=True).returncode == 1


def test_the_unit_runs_a_command_that_there_is_and_gives_it_time() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    program, command, *flags = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/bin/bandit-serve")
    assert command in COMMANDS
    assert flags == ["--config", "/etc/bandit-serve/config.toml"]
    assert int(unit["Service"]["TimeoutStopSec"]) >= grace_s(Settings())
    assert unit["Service"]["StateDirectoryMode"] == "0700"
    variables = dict(
        line.removeprefix("Environment=").split("=", 1)
        for line in UNIT.read_text().splitlines()
        if line.startswith("Environment=")
    )
    assert load_settings({}, environ=variables).data == f"/var/lib/{unit['Service']['StateDirectory']}"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/bandit-serve/bin/bandit-serve", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr

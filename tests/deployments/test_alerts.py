"""Alert rules and the unit for systemd: of metrics and commands that there are, and each alert with its section."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

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


class Case(NamedTuple):
    """Series of minutes, in promtool's notation, after which an alert is up, and the same where all is well.

    labels: those of the alert's one series, without its severity.
    """

    alert: str
    after: str
    series: dict[str, str]
    well: dict[str, str]
    labels: dict[str, str]
    summary: str


A = 'instance="a:8000",job="bandit-serve"'
OF_A = {"instance": "a:8000", "job": "bandit-serve"}
OF_E = f'{A},tenant="shop",experiment="e"'
ONLY_A, ONLY_E = {"instance": "a:8000"}, {"tenant": "shop", "experiment": "e"}


def total(name: str, grows: str, well: str = "0x60", more: str = "") -> tuple[dict[str, str], dict[str, str]]:
    series = f"{name}{{{A}{more}}}"
    return {series: grows}, {series: well}


def latencies(name: str, more: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """A histogram most of whose values are between 0.25 and 0.5 s, and one with none above 0.25 s."""

    def buckets(*totals: str) -> dict[str, str]:
        bounds = ("0.25", "0.5", "+Inf")
        return {f'{name}_bucket{{{A}{more},le="{le}"}}': of for le, of in zip(bounds, totals, strict=True)}

    return buckets("0x60", "0+60x60", "0+60x60"), buckets("0+60x60", "0+60x60", "0+60x60")


DECIDE = ',route="POST /v1/experiments/{experiment}/decide"'
CASES = (
    Case("BanditServeDown", "3m", *total("up", "0x60", "1x60"), OF_A, "a:8000 is not scraped"),
    Case(
        "BanditServeStoreAway",
        "3m",
        *total("bandit_serve_workers_without_store", "2x60"),
        OF_A,
        "2 workers of a:8000 can not use the store: rewards are refused",
    ),
    Case(
        "BanditServeExperimentSetAside",
        "3m",
        {f"bandit_serve_set_aside{{{OF_E}}}": "1x60"},
        {},
        ONLY_E,
        "e of shop is set aside: control for everyone, and its rewards are refused",
    ),
    Case(
        "BanditServeErrors",
        "20m",
        {
            f'bandit_serve_requests_total{{{A},outcome="2xx"}}': "0+95x60",
            f'bandit_serve_requests_total{{{A},outcome="5xx"}}': "0+5x60",
        },
        {
            f'bandit_serve_requests_total{{{A},outcome="2xx"}}': "0+100x60",
            f'bandit_serve_requests_total{{{A},outcome="5xx"}}': "0x60",
        },
        ONLY_A,
        "5% of the requests to a:8000 fail",
    ),
    Case(
        "BanditServeDecisionsSlow",
        "20m",
        latencies("bandit_serve_request_seconds", DECIDE)[0],
        {
            f'bandit_serve_request_seconds_bucket{{{A}{DECIDE},le="{le}"}}': "0+60x60"
            for le in ("0.01", "+Inf")
        },
        ONLY_A,
        "1 % of the decisions of a:8000 take more than 497.5ms",
    ),
    Case(
        "BanditServeExposuresLost",
        "20m",
        *total("bandit_serve_exposures_lost_total", "0+6x60"),
        OF_A,
        "60 exposures of a:8000 were dropped",
    ),
    Case(
        "BanditServeArmEjected",
        "5m",
        *total("bandit_serve_ejected_arms", "2x60"),
        OF_A,
        "workers of a:8000 leave out 2 arms whose model failed",
    ),
    Case(
        "BanditServeChoresFail",
        "30m",
        *total("bandit_serve_chores_failed_total", "0+1x60"),
        OF_A,
        "snapshots, trims or rotations of keys fail at a:8000",
    ),
    Case(
        "BanditServeTaskFailures",
        "30m",
        *total("bandit_serve_task_failures_total", "0+1x60"),
        OF_A,
        "a task beside the requests of a:8000 fails again and again",
    ),
    Case(
        "BanditServeClockOff",
        "5m",
        *total("bandit_serve_clock_offset_seconds", "-3x60"),
        OF_A,
        "a clock of a:8000 is 3s off the store's",
    ),
    Case(
        "BanditServeConnectionsCrowded",
        "10m",
        *total("bandit_serve_connections_ended_total", "0+1x60", more=',why="crowded"'),
        {**OF_A, "why": "crowded"},
        "a:8000 has no room for connections",
    ),
    Case(
        "BanditServeTailLags",
        "5m",
        {
            f'bandit_serve_tail_lag_seconds{{{A},tenant="shop"}}': "20x60",
            f"bandit_serve_workers_without_store{{{A}}}": "0x60",
        },
        # Without the store all workers lag, and that has an alert of its own.
        {
            f'bandit_serve_tail_lag_seconds{{{A},tenant="shop"}}': "20x60",
            f"bandit_serve_workers_without_store{{{A}}}": "1x60",
        },
        {**OF_A, "tenant": "shop"},
        "a worker of a:8000 is 20s behind the logs",
    ),
    Case(
        "BanditServeSnapshotsOld",
        "20m",
        {f"bandit_serve_snapshot_age_seconds{{{OF_E}}}": "2400x60"},
        {f"bandit_serve_snapshot_age_seconds{{{OF_E}}}": "90x60"},
        ONLY_E,
        "the log of e of shop is 40m 0s ahead of its newest snapshot",
    ),
    Case(
        "BanditServeLogOld",
        "90m",
        {
            f"bandit_serve_log_age_seconds{{{OF_E}}}": "864000x120",
            f"bandit_serve_retention_seconds{{{A}}}": "86400x120",
        },
        {
            f"bandit_serve_log_age_seconds{{{OF_E}}}": "90000x120",
            f"bandit_serve_retention_seconds{{{A}}}": "86400x120",
        },
        ONLY_E,
        "the log of e of shop is 10d 0h 0m 0s long, and is not trimmed",
    ),
    Case(
        "BanditServeStoreFull",
        "10m",
        {
            f"bandit_serve_store_used_bytes{{{A}}}": "90x60",
            f"bandit_serve_store_max_bytes{{{A}}}": "100x60",
        },
        # A store without a bound.
        {f"bandit_serve_store_used_bytes{{{A}}}": "90x60", f"bandit_serve_store_max_bytes{{{A}}}": "0x60"},
        ONLY_A,
        "the store uses 90% of its memory",
    ),
    Case(
        "BanditServeCertificateExpires",
        "20m",
        *total("bandit_serve_tls_expiry_timestamp_seconds", "865200x60", "1296000x60"),
        OF_A,
        "the certificate of a:8000 expires in 10d 0h 0m 0s",
    ),
    Case(
        "BanditServeAppendsSlow",
        "20m",
        *latencies("bandit_serve_append_seconds"),
        ONLY_A,
        "1 % of the appends of a:8000 take more than 497.5ms",
    ),
    Case(
        "BanditServeWebhooksWait",
        "40m",
        {f'bandit_serve_webhooks_waiting{{{A},tenant="shop"}}': "3x60"},
        # What is delivered, and comes again.
        {f'bandit_serve_webhooks_waiting{{{A},tenant="shop"}}': "3x20 0 3x20 0 3x20"},
        {"job": "bandit-serve", "tenant": "shop"},
        "webhooks of shop are behind, now by 3 notices",
    ),
    Case(
        "BanditServeWebhooksGivenUp",
        "60m",
        {f'bandit_serve_webhooks_total{{{A},result="given_up"}}': "0+2x60"},
        {
            f'bandit_serve_webhooks_total{{{A},result="given_up"}}': "7x60",
            f'bandit_serve_webhooks_total{{{A},result="failed"}}': "0+2x60",
        },
        {"job": "bandit-serve"},
        "120 notices were not taken within a day",
    ),
    Case(
        "BanditServeMeanChanged",
        "60m",
        {f"bandit_serve_alarms_total{{{OF_E}}}": "0x30 1x30"},
        {f"bandit_serve_alarms_total{{{OF_E}}}": "4x60"},
        {**OF_A, **ONLY_E},
        "the mean of an arm of e of shop has changed",
    ),
)


def test_alerts_are_up_when_they_should_be_and_then_alone(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    assert [case.alert for case in CASES] == [alert["alert"] for alert in ALERTS]
    severities = {alert["alert"]: alert["labels"]["severity"] for alert in ALERTS}
    tests = []
    for case in CASES:
        up = {
            "exp_labels": {**case.labels, "severity": severities[case.alert]},
            "exp_annotations": {
                "summary": case.summary,
                "runbook_url": f"docs/runbook.md#{case.alert.lower()}",
            },
        }
        for series, expected in ((case.series, [up]), (case.well, [])):
            tests.append(
                {
                    "name": f"{case.alert}, {'up' if expected else 'well'}",
                    "interval": "1m",
                    "input_series": [{"series": each, "values": values} for each, values in series.items()],
                    "alert_rule_test": [
                        {
                            "eval_time": case.after,
                            "alertname": other,
                            "exp_alerts": expected if other == case.alert else [],
                        }
                        for other in (severities if expected else [case.alert])
                    ],
                }
            )
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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

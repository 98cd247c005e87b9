"""`bandit-serve rewards import`: files that are imported again and again count once."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Finished, bandit_serve
from consistency_checks import log, private_store
from http_calls import decide, decide_many, running
from logged_values import values_by_unit
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until

from bandit_serve.cli.rewards import MAX_FAULTS
from bandit_serve.log.events import EXPOSED, REVISED

METRICS = [
    {"name": "revenue", "kind": "continuous", "role": "objective"},
    {"name": "bought", "kind": "binary"},
]
N_UNITS = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("import"), workers=2) as running:
        yield running


@pytest.fixture
def name(service: ThrowawayService) -> str:
    """An experiment in which `N_UNITS` units were exposed."""
    made = running(service, metrics=METRICS, unit="user")
    decide_many(service, made, [f"u{i}" for i in range(N_UNITS)])
    return made


def imported(service: ThrowawayService, name: str, *arguments: str | Path) -> Finished:
    return bandit_serve(
        "rewards", "import", *arguments, "--experiment", name, "--data", service.data, "--json"
    )


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def sums(service: ThrowawayService, name: str) -> list[float]:
    with private_store(service) as client:
        return sorted(value for (_, metric), value in values_by_unit(client, name).items() if metric == 0)


def orders(n: int, seed: int = 0) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        {"order": f"o-{i}", "customer": f"u{chance.randrange(N_UNITS)}", "amount": chance.uniform(-10, 100)}
        for i in range(n)
    ]


def ledger(rows: list[dict[str, Any]]) -> list[float]:
    by_customer: dict[str, dict[str, float]] = {}
    for row in rows:
        by_customer.setdefault(row["customer"], {})[row["order"]] = row["amount"]
    return sorted(math.fsum(events.values()) for events in by_customer.values())


COLUMNS = "--columns", "unit=customer,value=amount,event_id=order"


@pytest.mark.timeout(300)
def test_a_file_counts_once_however_often_it_is_imported_and_interrupted(
    service: ThrowawayService, name: str, tmp_path: Path
) -> None:
    rows = orders(scaled(12_000, 100_000))
    path = write_csv(tmp_path / "orders.csv", rows)
    command = [
        sys.executable,
        "-m",
        "bandit_serve",
        "rewards",
        "import",
        path,
        "--experiment",
        name,
        *COLUMNS,
    ]
    with private_store(service) as client:
        for round_number in range(2):
            known = len(log(client, name))
            importing = subprocess.Popen(
                [*map(str, command), "--data", service.data],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=clean_environment(),
            )
            wait_until(lambda known=known: len(log(client, name)) > known + 1, 60.0)
            os.kill(importing.pid, signal.SIGKILL)
            assert importing.wait() == -signal.SIGKILL
            assert len(sums(service, name)) > 0, round_number
    first = imported(service, name, path, *COLUMNS)
    assert first.status == 0, first
    assert 0 < first.document["accepted"] < len(rows)
    assert first.document["accepted"] + first.document["duplicate"] == first.document["rows"] == len(rows)
    for _ in range(2):
        again = imported(service, name, path, *COLUMNS)
        assert (again.status, again.document["duplicate"]) == (0, len(rows))
    assert sums(service, name) == ledger(rows)
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    assert sum(arm["metrics"]["revenue"]["n"] for arm in arms) == N_UNITS


@pytest.mark.timeout(300)
def test_an_import_outlasts_an_outage_of_the_store(tmp_path: Path) -> None:
    rows = orders(8_000, seed=1)
    path = write_csv(tmp_path / "orders.csv", rows)
    with ThrowawayStore() as store, ThrowawayService(tmp_path / "data", store=store.url) as running_service:
        made = running(running_service, metrics=METRICS, unit="user")
        decide_many(running_service, made, [f"u{i}" for i in range(N_UNITS)])
        command = [sys.executable, "-m", "bandit_serve", "rewards", "import", path, "--experiment", made]
        with store.client() as client:
            wait_until(lambda: any(entry.kind == EXPOSED for entry in log(client, made)))
            importing = subprocess.Popen(
                [*map(str, command), *COLUMNS, "--store", store.url, "--json"],
                stdout=subprocess.PIPE,
                env=clean_environment(),
            )
            wait_until(lambda: any(entry.kind == REVISED for entry in log(client, made)), 60.0)
        store.kill()
        store.start()
        out, _ = importing.communicate(timeout=120)
        assert importing.returncode == 0
        report = json.loads(out)
        assert report["accepted"] + report["duplicate"] == report["rows"] == len(rows)
        with store.client() as client:
            counted = [value for (_, metric), value in values_by_unit(client, made).items() if metric == 0]
        assert sorted(counted) == ledger(rows)


def test_corrections_and_retractions_come_as_further_rows(
    service: ThrowawayService, name: str, tmp_path: Path
) -> None:
    rows = [
        {"unit": "u1", "value": 1.5, "event_id": "a"},
        {"unit": "u1", "value": 2.5, "event_id": "b"},
        {"unit": "u1", "value": 3.5, "event_id": "a"},
        {"unit": "u1", "value": "null", "event_id": "b"},
        {"unit": "u2", "value": 1, "event_id": "a"},
    ]
    written = write_csv(tmp_path / "a.csv", rows)
    done = imported(service, name, written, "--retract-nulls")
    counts = {verdict: n for verdict, n in done.document.items() if isinstance(n, int) and n}
    assert counts == {"rows": 5, "accepted": 3, "corrected": 1, "retracted": 1}
    assert sums(service, name) == [1.0, 3.5]
    done = imported(service, name, write_csv(tmp_path / "b.csv", rows[2:]))
    assert (done.status, done.document["invalid"], done.document["retracted"]) == (1, 1, 0)
    assert sums(service, name) == [1.0, 3.5]


def test_rows_without_ids_count_once_in_every_form(
    service: ThrowawayService, name: str, tmp_path: Path
) -> None:
    rows = [{"unit": f"u{i % 3}", "value": 0.1} for i in range(30)]
    columns = {"unit": [row["unit"] for row in rows], "value": [row["value"] for row in rows]}
    written = write_csv(tmp_path / "a.csv", rows)
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    for path, accepted in ((written, 30), (tmp_path / "a.jsonl", 0), (tmp_path / "a.parquet", 0)):
        done = imported(service, name, path)
        assert (done.status, done.document["accepted"]) == (0, accepted)
        assert done.document["accepted"] + done.document["duplicate"] == 30
    done = imported(service, name, written, written)
    assert (done.document["rows"], done.document["duplicate"]) == (60, 60)
    assert sums(service, name) == [math.fsum([0.1] * 10)] * 3
    done = imported(service, name, written, "--metric", "bought")
    assert done.document["invalid"] == 30, "0.1 is no value of a binary metric"


def test_the_report_names_what_was_not_counted(service: ThrowawayService, name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [
        "unit,value,metric,at",
        "u1,1,,",
        "nobody,1,,",
        "u1,1,,2020-01-01T00:00:00Z",
        "u1,1,clicks,",
        "u1,x,,",
    ]
    path.write_text("\n".join([*lines, "u1,1"] + ["u2,,,"] * 20))
    done = imported(service, name, path)
    report = done.document
    assert done.status == 1
    assert {each: report[each] for each in ("rows", "accepted", "unmatched", "late", "invalid")} == {
        "rows": 26,
        "accepted": 1,
        "unmatched": 1,
        "late": 1,
        "invalid": 23,
    }
    assert len(report["faults"]) == MAX_FAULTS
    assert sorted(fault["line"] for fault in report["faults"])[:3] == [5, 6, 7]
    text = bandit_serve("rewards", "import", path, "--experiment", name, "--data", service.data)
    assert text.status == 1
    assert "26 rows" in text.out
    assert "a.csv, line 6: value: expected a number, not 'x'" in text.out
    assert "and 13 more invalid rows" in text.out


def test_rewards_of_decisions(service: ThrowawayService, tmp_path: Path) -> None:
    made = running(service, metrics=METRICS)
    tokens = [decide(service, made)["decision_id"] for _ in range(3)]
    rows = [{"decision_id": token, "value": 2.0} for token in [*tokens, tokens[0], "AAAA"]]
    path = write_csv(tmp_path / "a.csv", rows)
    for accepted, duplicates in ((3, 1), (0, 4)):
        done = imported(service, made, path)
        counts = [done.document[verdict] for verdict in ("accepted", "duplicate", "invalid")]
        assert counts == [accepted, duplicates, 1]
    # Wherever one comes from, a decision has one reward without an event's id.
    sent = {"decision_id": tokens[0], "value": 2.0}
    assert service.call("POST", "/v1/rewards", sent).body["verdicts"] == ["duplicate"]
    other = imported(
        service, made, write_csv(tmp_path / "other.csv", [{"decision_id": tokens[0], "value": 5}])
    )
    assert (other.status, other.document["accepted"], other.document["conflict"]) == (0, 0, 1)
    arms = service.call("GET", f"/v1/experiments/{made}/results").body["arms"]
    assert sum(arm["metrics"]["revenue"]["n"] for arm in arms) == 3
    by_unit = imported(service, made, write_csv(tmp_path / "b.csv", [{"unit": "u1", "value": 1}]))
    assert (by_unit.status, by_unit.document["invalid"]) == (1, 1)
    assert 'an experiment with "unit": "user"' in by_unit.document["faults"][0]["detail"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["none.csv"], 1, "can not be read"),
        (["a.csv", "--columns", "who=unit"], 2, "expected pairs"),
        (["a.csv", "--columns", "unit"], 2, "expected pairs"),
        (["a.csv", "--columns", "unit=who"], 1, "has no column 'who'"),
        (["a.csv", "--metric", "clicks"], 1, "has no metric 'clicks'"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_usage(
    service: ThrowawayService, name: str, tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    write_csv(tmp_path / "a.csv", [{"unit": "u1", "value": 1}])
    placed = [str(tmp_path / each) if each.endswith(".csv") else each for each in arguments]
    done = imported(service, name, *placed)
    assert done.status == status, done
    assert says in " ".join(done.err.split())


def test_an_experiment_that_is_not_there(service: ThrowawayService, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"unit": "u1", "value": 1}])
    done = imported(service, "nowhere", path)
    assert (done.status, "There is no experiment 'nowhere'" in done.err) == (1, True)


def test_rows_of_one_event_are_taken_in_their_order(
    service: ThrowawayService, name: str, tmp_path: Path
) -> None:
    made = service.call("POST", f"/v1/experiments/{name}/decide", {"unit": "u1"})
    token = made.body["decision_id"]
    rows: list[dict[str, Any]] = [
        {"unit": "u1", "decision_id": "", "value": 5, "event_id": "e"},
        {"unit": "", "decision_id": token, "value": "null", "event_id": "e"},
        {"unit": "u2", "decision_id": "", "value": 3, "event_id": "e"},
    ]
    done = imported(service, name, write_csv(tmp_path / "a.csv", rows), "--retract-nulls")
    counts = {verdict: n for verdict, n in done.document.items() if isinstance(n, int) and n}
    assert counts == {"rows": 3, "accepted": 2, "retracted": 1}
    assert sums(service, name)[-1] == 3.0


def test_no_file_sends_what_the_service_measures(service: ThrowawayService, tmp_path: Path) -> None:
    served = {"name": "error", "kind": "binary", "goal": "minimize", "source": "served", "role": "secondary"}
    made = running(service, metrics=[{**METRICS[0], "role": "objective"}, served], unit="user")
    assert service.call("POST", f"/v1/experiments/{made}/decide", {"unit": "u1"}).status == 200
    rows: list[dict[str, Any]] = [
        {"unit": "u1", "value": 1, "event_id": "e", "metric": "error"},
        {"unit": "u1", "value": 1, "event_id": "e", "metric": ""},
    ]
    done = imported(service, made, write_csv(tmp_path / "a.csv", rows))
    assert (done.status, done.document["accepted"], done.document["invalid"]) == (1, 1, 1)
    done = imported(service, made, write_csv(tmp_path / "b.csv", rows), "--metric", "error")
    assert (done.status, done.out) == (1, "")

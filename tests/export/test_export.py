"""`bandit-serve export`: rows that say what `/results` says, in formats that others read."""

from __future__ import annotations

import csv
import json
import math
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from commands import Finished, bandit_serve
from http_calls import call_msgpack, new_name, running
from services import ThrowawayService
from stores import wait_until

Row = dict[str, Any]
N = 400


def exported(service: ThrowawayService, name: str, out: Path, *options: str) -> Any:
    ran = bandit_serve("export", name, "--data", service.data, "--out", out, "--json", *options)
    assert ran.status == 0, ran.err
    return ran.document


def rows_of(out: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(out).to_pylist()
    return rows


def filled(service: ThrowawayService, *, units: int = 0, n: int = N, **fields: Any) -> tuple[str, list[Row]]:
    """Makes an experiment with decisions, of which about half are rewarded; returns its name and those decisions."""
    chance = random.Random(7)
    fields = {"id": new_name(), "policy": {"kind": "thompson", "min_share": 0.1, "holdout": 0.2}, **fields}
    name = running(service, **fields)
    with_context = "context" in fields
    requests: list[Row] = []
    for number in range(n):
        request: Row = {"unit": f"u{number % units}"} if units else {}
        if with_context:
            request["context"] = {"hour": chance.randrange(24)}
        requests.append(request)
    decided: list[Row] = []
    for start in range(0, n, 100):
        body = {"requests": requests[start : start + 100]}
        answer = service.call("POST", f"/v1/experiments/{name}/decide/batch", body)
        assert answer.status == 200, answer
        some = answer.body["responses"]
        chosen = [each for each in some if chance.random() < 0.5]
        rewards = [
            {"decision_id": each["decision_id"], "value": float(chance.random() < 0.4)} for each in chosen
        ]
        for each, reward in zip(chosen, rewards, strict=True):
            each["reward"] = reward["value"]
        assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["rejected"] == 0
        decided += some
        if with_context:
            # The next contexts are to meet what these have taught.
            n_rewards = sum("reward" in each for each in decided)
            wait_until(lambda so_far=n_rewards: learned(service, name) == so_far)
    wait_until(lambda: exposures(service, name) == n)
    return name, decided


def learned(service: ThrowawayService, name: str) -> int:
    """Rewards that the worker has folded."""
    return sum(service.call("GET", "/v1/stats").body["experiments"][name]["rewards"].values())


def results(service: ThrowawayService, name: str) -> Any:
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200, answer
    return answer.body


def exposures(service: ThrowawayService, name: str) -> int:
    return sum(arm["exposures"] for arm in results(service, name)["arms"])


def summary(values: dict[str, list[float]]) -> dict[str, tuple[int, float, float]]:
    summed = {}
    for arm, some in values.items():
        mean = math.fsum(some) / len(some)
        std = math.sqrt(math.fsum((each - mean) ** 2 for each in some) / (len(some) - 1))
        summed[arm] = (len(some), mean, std)
    return summed


def agree(
    service: ThrowawayService, name: str, values: dict[str, list[float]], metric: str = "click"
) -> None:
    """n, mean and std by arm are those of `/results`."""
    report = {arm["name"]: arm["metrics"][metric] for arm in results(service, name)["arms"]}
    assert set(report) == set(values)
    for arm, (n, mean, std) in summary(values).items():
        assert report[arm]["n"] == n
        assert report[arm]["mean"] == pytest.approx(mean, rel=1e-12)
        assert report[arm]["std"] == pytest.approx(std, rel=1e-12)


def test_rows_are_the_decisions_and_say_what_results_say(service: ThrowawayService, tmp_path: Path) -> None:
    name, decided = filled(service)
    done = exported(service, name, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert (done["rows"], done["files"]) == (N, 1)
    assert done["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.parquet"))
    assert len({(row["incarnation"], row["number"]) for row in rows}) == N
    assert done["from"] <= done["to"]
    assert sorted(row["propensity"] for row in rows) == sorted(each["propensity"] for each in decided)
    assert sum(row["reward_click"] is not None for row in rows) == sum("reward" in each for each in decided)
    values = defaultdict(list)
    for row in rows:
        place = ["control", "challenger"].index(row["arm"])
        assert row["shares"][place] == row["propensity"]
        assert math.isclose(sum(row["shares"]), 1.0, abs_tol=1e-12)
        assert row["unit"] is None
        assert not row["closed"]
        assert (row["rewarded_at_click"] is None) == (row["reward_click"] is None)
        if row["reward_click"] is not None:
            values[row["arm"]].append(row["reward_click"])
    assert 0 < sum(row["holdout"] for row in rows) < N / 2
    agree(service, name, values)
    (path,) = (tmp_path / "out").rglob("*.parquet")
    assert path.parent.name == f"date={done['from'][:10]}"
    schema = pq.read_schema(path)
    assert {field: str(schema.field(field).type) for field in ("incarnation", "arm", "decided_at")} == {
        "incarnation": "string",
        "arm": "string",
        "decided_at": "timestamp[ms, tz=UTC]",
    }
    metadata = schema.metadata
    assert metadata[b"bandit_serve.experiment"].decode() == name
    assert json.loads(metadata[b"bandit_serve.arms"]) == ["control", "challenger"]


def test_missing_as_zero(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(service, attribution={"missing": "zero", "window": "3s"}, n=200)
    wait_until(lambda: results(service, name)["pending"] == 0)
    exported(service, name, tmp_path / "out")
    values = defaultdict(list)
    for row in rows_of(tmp_path / "out"):
        assert row["closed"]
        values[row["arm"]].append(row["reward_click"] or 0.0)
    agree(service, name, values)


def test_units(service: ThrowawayService, tmp_path: Path) -> None:
    """A unit's arm is that of its first decision, and its value the maximum of a binary metric."""
    name, _ = filled(service, units=90, unit="user", policy={"kind": "fixed_split"})
    exported(service, name, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert len({row["unit"] for row in rows}) == 90
    arms: dict[str, str] = {}
    best: dict[str, float] = {}
    for row in rows:
        arms.setdefault(row["unit"], row["arm"])
        if row["reward_click"] is not None:
            best[row["unit"]] = max(best.get(row["unit"], 0.0), row["reward_click"])
    values = defaultdict(list)
    for unit, value in best.items():
        values[arms[unit]].append(value)
    agree(service, name, values)
    names = tmp_path / "names"
    names.write_text("u0\nu1\nnobody\n")
    ran = bandit_serve("export", name, "--data", service.data, "--hash-units", names)
    assert ran.status == 0, ran.err
    hashed = {row["name"]: row["unit"] for row in csv.DictReader(ran.out.splitlines())}
    assert hashed["u0"] in arms
    assert hashed["u1"] in arms
    assert hashed["nobody"] not in arms


def test_events_add_up_and_are_taken_back(service: ThrowawayService, tmp_path: Path) -> None:
    metrics = [
        {"name": "spend", "kind": "continuous", "role": "objective"},
        {"name": "click", "kind": "binary"},
    ]
    name = running(service, id=new_name(), metrics=metrics, attribution={"missing": "ignore"})
    answer = service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": [{}] * 3})
    tokens = [each["decision_id"] for each in answer.body["responses"]]
    for token, event, value in (
        (tokens[0], "a", 2.5),
        (tokens[0], "b", 4.0),
        (tokens[1], "a", 9.0),
        (tokens[1], "a", None),
    ):
        body = {"decision_id": token, "metric": "spend", "value": value, "event_id": event}
        assert service.call("POST", "/v1/rewards", body).status == 200
    wait_until(lambda: exposures(service, name) == 3)
    exported(service, name, tmp_path / "out")
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["number"])
    assert [row["reward_spend"] for row in rows] == [6.5, None, None]
    assert [row["reward_click"] for row in rows] == [None] * 3


def test_contexts(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(
        service, context=[{"name": "hour", "kind": "numeric"}], policy={"kind": "lin_ts", "min_share": 0.05}
    )
    exported(service, name, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.parquet")
    names = json.loads(pq.read_schema(path).metadata[b"bandit_serve.features"])
    assert names == ["intercept", "hour", "hour missing"]
    assert {row["x"][0] for row in rows} == {1.0}
    assert len({row["x"][1] for row in rows}) > 10
    assert len({tuple(row["shares"]) for row in rows}) > 10


def test_other_formats_have_the_same_rows(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(service, n=100)
    exported(service, name, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    for form in ("jsonl", "csv"):
        done = exported(service, name, tmp_path / f"out.{form}", "--format", form)
        assert (done["rows"], done["files"]) == (100, 1)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    with (tmp_path / "out.csv").open(newline="") as file:
        texts = list(csv.DictReader(file))
    assert len(rows) == len(lines) == len(texts) == 100
    for row, line, text in zip(rows, lines, texts, strict=True):
        at = row.pop("decided_at").isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert line["decided_at"] == text["decided_at"] == at
        for column in ("arm", "incarnation", "number", "propensity", "holdout", "reward_click", "shares"):
            assert line[column] == row[column], column
        assert float(text["propensity"]) == row["propensity"]
        assert json.loads(text["shares"]) == row["shares"]
        assert (text["reward_click"] == "") == (row["reward_click"] is None)


def test_a_span_of_time(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(service)
    exported(service, name, tmp_path / "all")
    times = sorted(row["decided_at"] for row in rows_of(tmp_path / "all"))
    middle = times[len(times) // 2]
    at = middle.isoformat()
    before = exported(service, name, tmp_path / "before", "--until", at)
    after = exported(service, name, tmp_path / "after", "--since", at)
    assert before["rows"] == sum(time < middle for time in times) > 0
    assert after["rows"] == sum(time >= middle for time in times) > 0
    nothing = exported(service, name, tmp_path / "nothing", "--until", "2020-01-01T00:00:00Z")
    assert nothing == {"rows": 0, "files": 0, "bytes": 0, "from": None, "to": None}
    assert (tmp_path / "nothing").is_dir()


def test_duckdb_and_polars_read_it(service: ThrowawayService, tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    name, _ = filled(service)
    exported(service, name, tmp_path / "out")
    report = {arm["name"]: arm["metrics"]["click"] for arm in results(service, name)["arms"]}
    files = f"{tmp_path}/out/**/*.parquet"
    query = f"""
        select arm, count(reward_click), avg(reward_click), stddev_samp(reward_click), min(date)
        from read_parquet('{files}', hive_partitioning = true) group by arm
    """
    for arm, n, mean, std, date in duckdb.sql(query).fetchall():
        assert n == report[arm]["n"]
        assert (mean, std) == pytest.approx((report[arm]["mean"], report[arm]["std"]), rel=1e-12)
        assert str(date).startswith("20")
    frame = polars.read_parquet(files)
    assert frame.height == N
    assert frame["reward_click"].count() == sum(each["n"] for each in report.values())


def test_a_url(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(service, n=100)
    url = f"local://{tmp_path}/remote"
    for _ in range(2):
        exported(service, name, url, "--overwrite")  # type: ignore[arg-type]
    assert len(rows_of(tmp_path / "remote")) == 100
    exported(service, name, f"local://{tmp_path}/one.jsonl", "--format", "jsonl")  # type: ignore[arg-type]
    assert len((tmp_path / "one.jsonl").read_text().splitlines()) == 100


def test_names_of_units_where_they_are_kept(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path / "data", "--keep-units") as service:
        name, _ = filled(service, units=30, unit="user", n=100, policy={"kind": "fixed_split"})
        other = running(service, id=new_name())
        columns = {"units": [f"späte-{number}" for number in range(50)]}
        assert call_msgpack(service, f"/v1/experiments/{other}/decide/batch", columns).status == 200
        for body in ({}, {"unit": "x" * 256}):
            assert service.call("POST", f"/v1/experiments/{other}/decide", body).status == 200
        wait_until(lambda: exposures(service, other) == 52)
        exported(service, name, tmp_path / "out")
        exported(service, other, tmp_path / "other")
    assert {row["unit"] for row in rows_of(tmp_path / "out")} == {f"u{number}" for number in range(30)}
    units = sorted(row["unit"] or "" for row in rows_of(tmp_path / "other"))
    assert units == sorted(["", "x" * 256, *columns["units"]])


def test_what_is_refused(service: ThrowawayService, tmp_path: Path) -> None:
    name, _ = filled(service, n=100)
    out = tmp_path / "out"
    exported(service, name, out)

    def refused(status: int, *options: str | Path, experiment: str = name) -> str:
        ran: Finished = bandit_serve("export", experiment, "--data", service.data, *options)
        assert (ran.status, ran.out) == (status, ""), ran
        return ran.err

    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert "There is something at --out already" in refused(2, "--out", out)
    assert "--out: expected the folder or file" in refused(2)
    assert "There is no experiment" in refused(1, "--out", tmp_path / "new", experiment="nobody")
    assert "--since: expected a time such as" in refused(2, "--out", tmp_path / "new", "--since", "yesterday")
    assert "--since: expected a time such as" in refused(
        2, "--out", tmp_path / "new", "--since", "2026-01-01T00:00:00"
    )
    later = ("--since", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z")
    assert "--until: expected a time after --since" in refused(2, "--out", tmp_path / "new", *later)
    assert "There is no directory" in refused(2, "--out", tmp_path / "no" / "out")
    assert "--every: expected 100 ms at least" in refused(
        2, "--out", tmp_path / "new", "--follow", "--every", "1ms"
    )
    assert "can not be used" in refused(2, "--out", "nothing://x")
    assert "that no --follow has begun" in refused(2, "--out", out, "--follow")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert exported(service, name, out, "--overwrite")["rows"] == 100
    assert len(rows_of(out)) == 100

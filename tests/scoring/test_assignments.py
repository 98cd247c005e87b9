"""`bandit-serve score --experiment`: units of files get the arms that the service gives them, and are exposed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import bandit_serve
from http_calls import decide, draft, new_name, running
from services import ThrowawayService
from stores import wait_until

ARMS = [{"name": "control"}, {"name": "b", "payload": {"size": 3}}, {"name": "c"}]
SPLIT = {"kind": "fixed_split", "shares": {"control": 0.5, "b": 0.3, "c": 0.2}}
N = 300


def shop(service: ThrowawayService, **changes: Any) -> str:
    fields = {"id": new_name(), "arms": ARMS, "unit": "user", "policy": SPLIT}
    return running(service, **{**fields, **changes})


def assigned(
    service: ThrowawayService, name: str, rows: list[dict[str, Any]], folder: Path, *options: str | Path
) -> list[dict[str, Any]]:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    out = folder / "out.parquet"
    ran = bandit_serve(
        "score", folder / "rows.parquet", "--experiment", name, "--out", out, "--data", service.data, *options
    )
    assert ran.status == 0, ran.err
    found: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return found


def exposures(service: ThrowawayService, name: str) -> int:
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200, answer
    return sum(arm["exposures"] for arm in answer.body["arms"])


def test_units_get_the_arms_that_the_service_gives_them(service: ThrowawayService, tmp_path: Path) -> None:
    name = shop(service)
    rows = assigned(service, name, [{"user_id": n} for n in range(N)], tmp_path)
    assert [row["unit"] for row in rows] == [str(n) for n in range(N)]
    assert {row["arm"] for row in rows} == {"control", "b", "c"}
    shares = SPLIT["shares"]
    assert all(row["propensity"] == pytest.approx(shares[row["arm"]]) for row in rows)  # type: ignore[index]
    assert {row["payload"] for row in rows if row["arm"] == "b"} == {'{"size":3}'}
    wait_until(lambda: exposures(service, name) == N)
    for row in rows[:40]:
        answer = decide(service, name, unit=row["unit"])
        assert (answer["arm"], answer["propensity"]) == (row["arm"], row["propensity"])
    rewards = [{"decision_id": row["decision_id"], "value": 1.0} for row in rows[:20]]
    rewards.append(rewards[0])
    verdicts = service.call("POST", "/v1/rewards", {"rewards": rewards}).body["verdicts"]
    assert verdicts == ["accepted"] * 20 + ["duplicate"]
    by_unit = {"experiment": name, "unit": "33", "value": 1.0, "event_id": "e"}
    assert service.call("POST", "/v1/rewards", by_unit).body["verdicts"] == ["accepted"]


def test_exposures_come_later_by_their_ids(service: ThrowawayService, tmp_path: Path) -> None:
    name = shop(service)
    rows = assigned(service, name, [{"unit": f"u{n}"} for n in range(N)], tmp_path, "--exposures", "later")
    again = assigned(
        service, name, [{"unit": f"u{n}"} for n in range(N)], tmp_path, "--overwrite", "--exposures", "later"
    )
    assert [(row["unit"], row["arm"]) for row in rows] == [(row["unit"], row["arm"]) for row in again]
    assert exposures(service, name) == 0
    shown = [row["decision_id"] for row in rows[:100]]
    for verdict in ("accepted", "duplicate"):
        answer = service.call("POST", "/v1/exposures", {"decision_ids": shown})
        assert answer.body["verdicts"] == [verdict] * 100
    wait_until(lambda: exposures(service, name) == 100)
    assert decide(service, name, unit="u5")["arm"] == rows[5]["arm"]


def test_contexts_are_read_and_bad_rows_leave_nothing_in_the_log(
    service: ThrowawayService, tmp_path: Path
) -> None:
    name = shop(
        service,
        unit="request",
        policy={"kind": "lin_ts", "min_share": 0.05},
        context=[{"name": "hour", "kind": "numeric"}],
    )
    rows: list[dict[str, Any]] = [{"unit": f"u{n}", "context": {"hour": n % 24}} for n in range(50)]
    rows[30]["unit"] = ""
    source, out, rejects = tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tmp_path / "rejects"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", source, "--experiment", name, "--out", out, "--data", service.data, "--format", "jsonl"]
    ran = bandit_serve(*words)
    assert ran.status == 1
    assert "rows.jsonl, line 31: unit" in " ".join(ran.err.split())
    assert exposures(service, name) == 0
    ran = bandit_serve(*words, "--rejects", rejects, "--json")
    assert ran.status == 0, ran.err
    assert (ran.document["written"], ran.document["rejected"]) == (49, 1)
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [31]
    assert len(out.read_text().splitlines()) == 49
    wait_until(lambda: exposures(service, name) == 49)


def test_contexts_and_covariates_of_csv_are_objects(service: ThrowawayService, tmp_path: Path) -> None:
    fields = [
        {"name": "hour", "kind": "numeric"},
        {"name": "device", "kind": "categorical", "values": ["1", "2"]},
    ]
    metrics = [{"name": "click", "kind": "count", "covariate": "before"}]
    name = shop(service, policy={"kind": "lin_ts", "min_share": 0.1}, context=fields, metrics=metrics)
    path, out = tmp_path / "units.csv", tmp_path / "out.parquet"
    path.write_text(
        "unit,context,covariates\n"
        '007,"{""hour"": 3, ""device"": ""1""}","{""before"": 2}"\n'
        '1e3,"{""hour"": 4, ""device"": ""2""}",\n'
    )
    where = ("--experiment", name, "--out", out, "--data", service.data)
    ran = bandit_serve("score", path, *where)
    assert ran.status == 0, ran.err
    assert [row["unit"] for row in pq.read_table(out).to_pylist()] == ["007", "1e3"]
    path.write_text("unit,context\nu,3\n")
    refused = bandit_serve("score", path, *where, "--overwrite")
    assert refused.status != 0
    assert "line 2: context: Expected `object" in refused.err


def test_a_draft_is_refused_and_a_paused_experiment_gives_control(
    service: ThrowawayService, tmp_path: Path
) -> None:
    name = draft(service, id=new_name(), arms=ARMS, unit="user", policy=SPLIT)
    pq.write_table(pa.table({"unit": ["u"]}), tmp_path / "units.parquet")
    words = ["score", tmp_path / "units.parquet", "--out", tmp_path / "out", "--data", service.data]
    ran = bandit_serve(*words, "--experiment", name)
    assert ran.status == 1
    assert "is a draft" in ran.err
    assert bandit_serve(*words, "--experiment", name, "--k", "3").status == 2
    assert not (tmp_path / "out").exists()
    name = shop(service)
    assert service.call("POST", f"/v1/experiments/{name}/pause").status == 200
    rows = assigned(service, name, [{"unit": f"u{n}"} for n in range(20)], tmp_path)
    assert {(row["arm"], row["decision_id"], row["propensity"]) for row in rows} == {("control", None, 1.0)}

"""Covariates and ratios over HTTP: with decisions, uploaded before the start, and in the results."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from consistency_checks import assert_states_equal_replay
from http_calls import check_problem, draft, reward_many, running
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.changes.covariate_files import from_parquet

METRICS = [{"name": "y", "kind": "continuous", "covariate": "before"}]


@pytest.fixture(scope="module")
def store():
    with ThrowawayStore() as running_store:
        yield running_store


@pytest.fixture(scope="module")
def service(tmp_path_factory, store):
    with ThrowawayService(tmp_path_factory.mktemp("covariates"), store=store.url) as started:
        yield started


def decide(service: ThrowawayService, name: str, **body: Any) -> dict[str, Any]:
    answer = service.call("POST", f"/v1/experiments/{name}/decide", body)
    assert answer.status == 200, answer.body
    return answer.body


def results(service: ThrowawayService, name: str) -> dict[str, Any]:
    answer = service.call("GET", f"/v1/experiments/{name}/results")
    assert answer.status == 200, answer.body
    return {arm["name"]: arm["metrics"] for arm in answer.body["arms"]}


def theta(service: ThrowawayService, name: str, metric: str = "y") -> float:
    (one,) = {metrics[metric]["adjusted"]["theta"] for metrics in results(service, name).values()}
    return one


@pytest.mark.parametrize(
    "policy",
    [{"kind": "fixed_split"}, {"kind": "lin_ts", "min_share": 0.05}],
    ids=lambda policy: policy["kind"],
)
def test_covariates_of_decisions_are_in_the_results(service, store, policy):
    """y = 3 z + 1: what is left has no variance, and theta is 3."""
    context = [{"name": "z", "kind": "numeric"}] if policy["kind"] == "lin_ts" else []
    name = running(service, metrics=METRICS, policy=policy, context=context)
    rng = np.random.default_rng(4)
    tokens, values = [], []
    for place in range(40):
        z = float(rng.integers(0, 9))
        more = {"context": {"z": z}} if context else {}
        tokens.append(
            decide(service, name, unit=f"u{place}", covariates={"before": z}, **more)["decision_id"]
        )
        values.append(3.0 * z + 1.0)
    assert set(reward_many(service, tokens, values)) == {"accepted"}
    assert theta(service, name) == pytest.approx(3.0)
    with store.client() as client:
        assert_states_equal_replay(client, name, 1)


def test_a_decision_without_one_counts_as_0_and_an_unknown_one_is_refused(service):
    name = running(service, metrics=METRICS)
    at = f"/v1/experiments/{name}/decide"
    assert decide(service, name)["decision_id"]
    assert decide(service, name, covariates={"before": None})["decision_id"]
    check_problem(service.call("POST", at, {"covariates": {"befre": 1}}), 400, "covariates.befre")
    check_problem(service.call("POST", at, {"covariates": {"before": 1e13}}), 400, "covariates.before")
    plain = running(service)
    answer = service.call("POST", f"/v1/experiments/{plain}/decide", {"covariates": {"before": 1}})
    check_problem(answer, 400, "covariates")
    columns = service.call("POST", f"{at}/batch", {"units": ["a", "b"]}).body
    assert set(reward_many(service, columns["decision_ids"], [1.0, 2.0])) == {"accepted"}


def in_parquet(units, values):
    file = io.BytesIO()
    pq.write_table(pa.table({"unit": units, "before": values}), file)
    return file.getvalue()


def uploads(units, values):
    lines = ["unit,before", *(f"{unit},{value}" for unit, value in zip(units, values, strict=True))]
    yield "application/json", {"unit": units, "covariates": {"before": values}}
    yield "text/csv", "\n".join(lines).encode()
    yield "application/vnd.apache.parquet", in_parquet(units, values)


@pytest.mark.parametrize("place", range(3), ids=["json", "csv", "parquet"])
def test_covariates_by_unit_are_uploaded_before_the_start(service, store, place):
    units = [f"user-{i}" for i in range(30)]
    values = [float(i % 7) for i in range(30)]
    name = draft(service, metrics=METRICS, unit="user")
    at = f"/v1/experiments/{name}/covariates"
    first = service.call("PUT", at, {"unit": ["user-1"], "covariates": {"before": [99.0]}})
    assert (first.status, first.body) == (200, {"units": 1, "covariates": ["before"]})
    media, body = list(uploads(units, values))[place]
    answer = service.call("PUT", at, body, {"Content-Type": media})
    assert (answer.status, answer.body) == (200, {"units": 30, "covariates": ["before"]})
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
    check_problem(service.call("PUT", at, body, {"Content-Type": media}), 409)
    tokens = [decide(service, name, unit=unit)["decision_id"] for unit in units]
    assert set(reward_many(service, tokens, [2.0 * value for value in values])) == {"accepted"}
    assert theta(service, name) == pytest.approx(2.0)
    with store.client() as client:
        assert_states_equal_replay(client, name, 1)


N_ROWS = 2**20
A_ROW = {"unit": ["a"], "before": [1.0]}


def one_long_unit():
    return pa.DictionaryArray.from_arrays(np.zeros(N_ROWS, np.int32), ["u" * 20_000])


def two_long_texts():
    return pa.array(["1" * 2**28] * 2).dictionary_encode()


@pytest.mark.parametrize(
    ("columns", "at"),
    [
        ({"unit": one_long_unit, "before": np.zeros(N_ROWS)}, "unit"),
        ({"unit": ["a" * 257], "before": [1.0]}, "unit"),
        ({"unit": np.arange(N_ROWS + 1), "before": np.zeros(N_ROWS + 1)}, "unit"),
        ({"unit": [b"a"], "before": [1.0]}, "unit"),
        ({**A_ROW, **{f"x{i}": [1.0] for i in range(32)}}, ""),
        ({**A_ROW, "x": ["1"]}, "x"),
        ({**A_ROW, "x": [[1.0]]}, "x"),
        ({"unit": ["a", "b"], "before": [1.0, 2.0], "x": two_long_texts}, "x"),
    ],
    ids=["a long unit", "too long", "rows", "bytes", "columns", "texts", "lists", "a long text"],
)
def test_what_a_parquet_file_would_cost_is_known_before_it_is_read(service, columns, at):
    """The first of them is of 8 kB, and would be 20 GiB."""
    file = io.BytesIO()
    made = {name: column() if callable(column) else column for name, column in columns.items()}
    pq.write_table(pa.table(made), file, compression="zstd")
    assert len(file.getvalue()) < 2**24
    name = draft(service, metrics=METRICS, unit="user")
    media = {"Content-Type": "application/vnd.apache.parquet"}
    check_problem(service.call("PUT", f"/v1/experiments/{name}/covariates", file.getvalue(), media), 400, at)
    assert service.peak_bytes() < 2**30


@pytest.mark.parametrize(
    "columns",
    [
        {"unit": pa.array(["a", "b"], pa.large_string()), "before": [2.0, None]},
        {"unit": pa.array(["a", "b"]).dictionary_encode(), "before": pa.array([2, 0]).dictionary_encode()},
        {"before": pa.array([2, 0], pa.decimal128(9, 2)), "unit": ["a", "b"]},
    ],
    ids=["large", "categories", "decimals"],
)
def test_columns_of_any_type_of_texts_and_numbers_are_read(columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    read = from_parquet(file.getvalue())
    assert (list(read.units), read.names, read.values.tolist()) == (["a", "b"], ("before",), [[2.0], [0.0]])


def test_units_that_are_integers_are_read_as_texts():
    assert from_parquet(in_parquet([7, 8], [1, None])).units == ["7", "8"]


@pytest.mark.parametrize(
    ("body", "media", "at"),
    [
        ({"unit": ["a", "a"], "covariates": {"before": [1, 2]}}, "application/json", "unit"),
        ({"unit": ["a"], "covariates": {"befre": [1]}}, "application/json", "covariates.befre"),
        ({"unit": ["a"], "covariates": {"before": [1, 2]}}, "application/json", "covariates.before"),
        (b"unit,before\na,x\n", "text/csv", "line 2"),
        (b"unit,before\na\n", "text/csv", "line 2"),
        (b"user,before\na,1\n", "text/csv", "unit"),
        (b"unit,before\na,inf\n", "text/csv", "before[0]"),
        (b"unit,before\n\xff,1\n", "text/csv", ""),
        (b"PAR1", "application/vnd.apache.parquet", ""),
    ],
)
def test_what_is_no_upload_is_refused(service, body, media, at):
    name = draft(service, metrics=METRICS, unit="user")
    answer = service.call("PUT", f"/v1/experiments/{name}/covariates", body, {"Content-Type": media})
    check_problem(answer, 400, at)


@pytest.mark.parametrize(
    "changes", [{"unit": "user"}, {"metrics": METRICS}], ids=["no covariate", "requests"]
)
def test_an_experiment_that_can_have_none_refuses_them(service, changes):
    name = draft(service, **changes)
    body = {"unit": ["a"], "covariates": {"before": [1]}}
    check_problem(service.call("PUT", f"/v1/experiments/{name}/covariates", body), 400, "")


def test_a_ratio_is_made_of_the_rewards_of_others(service, store):
    metrics = [
        {"name": "paid", "kind": "binary"},
        {"name": "clicks", "kind": "count"},
        {"name": "sessions", "kind": "count"},
        {"name": "rate", "kind": "ratio", "numerator": "clicks", "denominator": "sessions"},
    ]
    name = running(service, metrics=metrics, unit="user", attribution={"window": "1h", "missing": "ignore"})
    tokens = [decide(service, name, unit=f"u{i}")["decision_id"] for i in range(12)]
    rewards = [
        {"decision_id": token, "metric": metric, "value": value}
        for i, token in enumerate(tokens)
        for metric, value in (("clicks", i % 3), ("sessions", 2))
    ]
    answer = service.call("POST", "/v1/rewards", {"rewards": rewards})
    assert set(answer.body["verdicts"]) == {"accepted"}
    refused = service.call("POST", "/v1/rewards", {"decision_id": tokens[0], "metric": "rate", "value": 1})
    check_problem(refused, 400, "value")
    assert "ratio" in refused.body["detail"]
    by_arm = results(service, name)
    total = sum(metrics["rate"]["n"] * metrics["rate"]["mean"] * 2.0 for metrics in by_arm.values())
    assert total == pytest.approx(12.0)
    with store.client() as client:
        assert_states_equal_replay(client, name, 1)

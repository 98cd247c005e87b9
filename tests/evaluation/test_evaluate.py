"""`bandit-serve evaluate`: values of other policies from a log and from an export, and what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import Finished, bandit_serve
from http_calls import decide_many, new_name, reward_many, running
from services import ThrowawayService
from stores import wait_until

from bandit_serve.results import off_policy

RATES = {"control": 0.2, "challenger": 0.6}
N = 3_000
ALL = {"ips", "snips", "dr", "switch", "dros", "dm"}


class Filled(NamedTuple):
    """Experiment with decisions of which each has a reward, and the folder of its export."""

    name: str
    out: Path


def exposures(service: ThrowawayService, name: str) -> int:
    body = service.call("GET", f"/v1/experiments/{name}/results").body
    return sum(arm["exposures"] for arm in body["arms"])


def fill(service: ThrowawayService, out: Path, n: int = N, units: int | None = None, **fields: Any) -> Filled:
    name = running(service, id=new_name(), attribution={"missing": "ignore"}, **fields)
    chance = random.Random(11)
    decided = decide_many(service, name, [f"u{number % (units or n)}" for number in range(n)])
    names = decided["arm_names"]
    values = [float(chance.random() < RATES[names[arm]]) for arm in decided["arms"]]
    assert set(reward_many(service, decided["decision_ids"], values)) == {"accepted"}
    wait_until(lambda: exposures(service, name) == n)
    ran = bandit_serve("export", name, "--data", service.data, "--out", out, "--json")
    assert (ran.status, ran.document["rows"]) == (0, n), ran.err
    return Filled(name, out)


@pytest.fixture(scope="module")
def filled(service: ThrowawayService, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    policy = {"kind": "fixed_split", "shares": {"control": 0.8, "challenger": 0.2}}
    arms = [
        {"name": "control", "payload": {"secret": 1}},
        {"name": "challenger", "payload": "x"},
    ]
    return fill(service, tmp_path_factory.mktemp("export") / "out", policy=policy, arms=arms)


def evaluated(service: ThrowawayService, name: str | Path, *options: str | Path) -> Any:
    ran = bandit_serve("evaluate", name, "--data", service.data, "--json", *options)
    assert ran.status == 0, ran.err
    return ran.document


def test_one_policy_from_the_log_is_the_librarys_own_estimate(
    service: ThrowawayService, filled: Filled
) -> None:
    found = evaluated(service, filled.name, "--policy", "challenger=1")
    assert set(found["estimates"]) == ALL
    rows = pq.read_table(filled.out).to_pylist()
    reward = np.array([row["reward_click"] for row in rows])
    propensity = np.array([row["propensity"] for row in rows])
    target = np.array([float(row["arm"] == "challenger") for row in rows])
    for name in ("ips", "snips"):
        own = getattr(off_policy, name)(reward, propensity, target, interval="anytime")
        given = found["estimates"][name]
        assert given["value"] == pytest.approx(own.value, rel=1e-12)
        assert given["standard_error"] == pytest.approx(own.standard_error, rel=1e-12)
        assert given["interval"] == pytest.approx(own.interval, rel=1e-12)
    weights = off_policy.diagnostics(propensity, target)
    assert found["diagnostics"]["effective_sample_size"] == pytest.approx(weights.effective_sample_size)
    assert found["warnings"] == []
    assert found["refusal"] is None
    assert (found["n"], found["metric"], found["shares"]["challenger"]) == (N, "click", 1.0)
    for name in ("ips", "snips", "dr", "switch", "dros"):
        low, high = found["estimates"][name]["interval"]
        assert low < RATES["challenger"] < high, name
    assert found["logged"]["value"] == pytest.approx(reward.mean(), rel=1e-12)


def test_an_export_says_the_same_as_the_log(service: ThrowawayService, filled: Filled) -> None:
    options = ("--policy", "thompson", "--policy", "control=1,challenger=3", "--interval", "normal")
    from_log, from_export = (evaluated(service, at, *options) for at in (filled.name, filled.out))
    assert from_log == from_export
    # No store is needed for that.
    ran = bandit_serve("evaluate", filled.out, "--policy", "thompson", "--json", "--data", "/nonexistent/x")
    assert ran.status == 0, ran.err
    definition = json.loads(
        pq.read_schema(next(filled.out.rglob("*.parquet"))).metadata[b"bandit_serve.definition"]
    )
    assert "secret" not in json.dumps(definition)


def test_many_policies_have_corrected_intervals(
    service: ThrowawayService, filled: Filled, tmp_path: Path
) -> None:
    policies = tmp_path / "policies.toml"
    policies.write_text(
        '[even]\nkind = "fixed_split"\n[greedy]\nkind = "epsilon_greedy"\nepsilon = 0.1\n'
        "[mostly]\nshares = {challenger = 0.9, control = 0.1}\n"
    )
    many = evaluated(service, filled.out, "--policy", policies)
    one = evaluated(service, filled.out, "--policy", "challenger=0.9,control=0.1")
    assert [each["name"] for each in many["policies"]] == ["even", "greedy", "mostly"]
    assert many["alpha_each"] == pytest.approx(0.05 / 3)
    wide, narrow = many["policies"][2]["estimates"]["dr"], one["estimates"]["dr"]
    assert wide["value"] == narrow["value"]
    assert wide["interval"][0] < narrow["interval"][0] < narrow["interval"][1] < wide["interval"][1]
    # The greedy one takes the better arm but for its epsilon, above the floor that is served.
    assert many["policies"][1]["shares"]["challenger"] == pytest.approx(0.02 + 0.96 * 0.95)
    assert "policies" in one
    assert "estimates" not in many


def test_a_search_is_judged_on_the_other_half(
    service: ThrowawayService, filled: Filled, tmp_path: Path
) -> None:
    policies = tmp_path / "grid.json"
    grid = {"epsilon": [0.1, 0.5], "min_share": [0.0, 0.1]}
    policies.write_text(json.dumps({"greedy": {"kind": "epsilon_greedy", "grid": grid}}))
    found = evaluated(service, filled.out, "--policy", policies, "--policy", "control=1", "--search")
    names = [f"greedy epsilon={epsilon} min_share={least}" for epsilon in (0.1, 0.5) for least in (0.0, 0.1)]
    assert [each["name"] for each in found["searched"]] == [*names, "control=1"]
    assert found["name"] == max(found["searched"], key=lambda each: each["value"])["name"] == names[0]
    assert found["n"] == N // 2
    assert found["alpha_each"] == 0.05
    shown = bandit_serve("evaluate", filled.out, "--policy", policies, "--search")
    assert "was the best of 4 on the other half" in shown.out
    policies.write_text(json.dumps({"greedy": {"kind": "epsilon_greedy", "grid": {"epsilon": 0.1}}}))
    assert "grid: expected a list" in refused(2, filled.out, "--policy", policies)


def test_a_table_and_a_plot(service: ThrowawayService, filled: Filled, tmp_path: Path) -> None:
    plot = tmp_path / "values.svg"
    ran = bandit_serve(
        "evaluate", filled.out, "--policy", "thompson", "--policy", "control=1", "--plot", plot
    )
    assert ran.status == 0, ran.err
    for told in ("as it was", "thompson", "control=1", "ips", "dros", "95% of all", "missing: ignore"):
        assert told in ran.out
    picture = plot.read_text("utf-8")
    assert picture.startswith("<svg ")
    assert picture.count('class="dot"') == 3


@pytest.mark.parametrize("interval", ["normal", "bootstrap", "bernstein", "anytime"])
def test_every_interval(service: ThrowawayService, filled: Filled, interval: str) -> None:
    # The service draws: at .05 one run of twenty would miss.
    options = ("--policy", "challenger=1", "--interval", interval, "--alpha", "1e-5")
    found = evaluated(service, filled.out, *options)
    for name in ALL - {"dm"}:
        low, high = found["estimates"][name]["interval"]
        assert low < RATES["challenger"] < high


def test_a_policy_on_contexts_and_another_model_of_outcomes(
    service: ThrowawayService, tmp_path: Path
) -> None:
    name = running(
        service,
        id=new_name(),
        context=[{"name": "hour", "kind": "numeric", "mean": 11.5, "std": 7.0}],
        policy={"kind": "fixed_split"},
        attribution={"missing": "ignore"},
        metrics=[{"name": "spend", "kind": "continuous"}],
    )
    chance = random.Random(5)
    hours = [chance.randrange(24) for _ in range(600)]
    responses = []
    for start in range(0, 600, 100):
        body = {"requests": [{"context": {"hour": hour}} for hour in hours[start : start + 100]]}
        responses += service.call("POST", f"/v1/experiments/{name}/decide/batch", body).body["responses"]
    rewards = [
        # One arm is better early, the other late.
        {
            "decision_id": each["decision_id"],
            "value": (hour - 11.5) * (1 if each["arm"] == "control" else -1) + chance.gauss(0, 1),
        }
        for each, hour in zip(responses, hours, strict=True)
    ]
    assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["rejected"] == 0
    wait_until(lambda: exposures(service, name) == 600)
    found = evaluated(service, name, "--policy", "lin_ucb", "--policy", "control=1", "--interval", "normal")
    best, constant = (each["estimates"] for each in found["policies"])
    ideal = float(np.mean(np.abs(np.array(hours) - 11.5)))
    assert best["dr"]["value"] == pytest.approx(ideal, abs=0.6)
    assert best["dr"]["standard_error"] < 0.5 * best["ips"]["standard_error"]
    assert constant["dr"]["value"] == pytest.approx(np.mean(np.array(hours) - 11.5), abs=0.6)
    other = evaluated(service, name, "--policy", "lin_ucb", "--outcome", "tree.DecisionTreeRegressor")
    assert other["estimates"]["ips"]["value"] == best["ips"]["value"]
    assert other["estimates"]["dm"]["value"] != best["dm"]["value"]
    machine = evaluated(service, name, "--policy", "lin_ucb", "--outcome", "fm", "--interval", "normal")
    assert machine["estimates"]["dr"]["value"] == pytest.approx(ideal, abs=0.6)
    refused = bandit_serve(
        "evaluate", name, "--data", service.data, "--policy", "control=1", "--interval", "bernstein"
    )
    assert (refused.status, "has no bounds" in refused.err) == (1, True)


def test_a_policy_is_replayed_while_it_learns(
    service: ThrowawayService, filled: Filled, tmp_path: Path
) -> None:
    policies = tmp_path / "learning.toml"
    policies.write_text('[greedy]\nkind = "epsilon_greedy"\nepsilon = 0.1\n[even]\nkind = "fixed_split"\n')
    options = ("--learning", "--policy", policies, "--seed", "3", "--alpha", "1e-4")
    plot = tmp_path / "learning.svg"
    found = evaluated(service, filled.out, *options, "--plot", plot)
    assert found == evaluated(service, filled.name, *options)
    greedy, even = found["policies"]
    assert (found["n"], found["interval"], found["alpha_each"]) == (N, "student", 0.5e-4)
    for each in (greedy, even):
        assert each["runs"] == 10
        # A fifth of the decisions may be of the arm that a policy takes half of the time.
        assert 10 * each["horizon"] <= 10 * each["least_accepted"] <= each["accepted"] < each["offered"] == N
        assert set(each["estimates"]) == {"replay", "dr"}
        assert each["curve"]["decisions"][-1] == each["horizon"]
        assert each["curve"]["value"][-1] == pytest.approx(each["estimates"]["dr"]["value"])
    for name in ("replay", "dr"):
        low, high = even["estimates"][name]["interval"]
        assert low < sum(RATES.values()) / 2 < high
        assert greedy["estimates"][name]["value"] > even["estimates"][name]["value"]
    assert even["shares"]["control"] == pytest.approx(0.5, abs=0.08)
    assert greedy["shares"]["challenger"] > 0.6
    assert plot.read_text("utf-8").count('class="dot"') == 3
    shown = bandit_serve("evaluate", filled.out, *options, "--horizon", "50", "--runs", "4")
    assert shown.status == 0, shown.err
    for told in ("while a policy learns", "first 50", "greedy: 4 runs accepted", "Student's intervals"):
        assert told in shown.out


def test_what_a_replay_refuses(service: ThrowawayService, filled: Filled, tmp_path: Path) -> None:
    where = (filled.out, "--learning", "--policy")
    assert "too short for runs of 2,000 decisions" in refused(1, *where, "thompson", "--horizon", "2000")
    assert "--runs: expected a number from 2" in refused(2, *where, "thompson", "--runs", "1")
    assert "--search: --learning goes without it" in refused(2, *where, "thompson", "--search")
    assert "--interval: --learning goes" in refused(2, *where, "thompson", "--interval", "normal")
    assert "--horizon: only --learning has it" in refused(
        2, filled.out, "--policy", "thompson", "--horizon", "50"
    )
    assert "lin_ucb learns from context" in refused(2, *where, "lin_ucb")
    never = fill(service, tmp_path / "out", n=300, policy={"kind": "fixed_split", "shares": {"control": 1.0}})
    assert "the arm 'challenger' no chance in 300 of 300 decisions" in refused(
        1, never.out, "--learning", "--policy", "thompson"
    )


def test_units_count_once(service: ThrowawayService, tmp_path: Path) -> None:
    unit = fill(service, tmp_path / "out", n=900, units=300, unit="user", policy={"kind": "fixed_split"})
    found = evaluated(service, unit.name, "--policy", "control=1")
    report = service.call("GET", f"/v1/experiments/{unit.name}/results").body["arms"][0]["metrics"]["click"]
    assert found["n"] == 300
    assert found["estimates"]["snips"]["value"] == pytest.approx(report["mean"], rel=1e-12)
    replayed = evaluated(service, unit.out, "--policy", "fixed_split", "--learning", "--runs", "5")
    assert (replayed["n"], replayed["offered"]) == (300, 300)
    # As it was drawn: nothing is rejected.
    assert replayed["accepted"] == 300


def refused(status: int, *arguments: str | Path) -> str:
    ran: Finished = bandit_serve("evaluate", *arguments)
    assert ran.status == status, ran
    return " ".join(ran.err.split())


def test_what_the_log_can_not_answer(service: ThrowawayService, tmp_path: Path) -> None:
    never = fill(service, tmp_path / "out", n=300, policy={"kind": "fixed_split", "shares": {"control": 1.0}})
    where = (never.name, "--data", service.data)
    assert "what the log gave no chance (most of it the arm 'challenger')" in refused(
        1, *where, "--policy", "challenger=0.01,control=0.99"
    )
    ran = bandit_serve("evaluate", *where, "--policy", "challenger=1", "--policy", "control=1", "--json")
    assert ran.status == 0
    nothing, own = ran.document["policies"]
    assert (nothing["estimates"], own["refusal"]) == ({}, None)
    assert nothing["overlap"]["by_arm"] == [0.0, 1.0]
    few = fill(
        service,
        tmp_path / "few",
        n=1_000,
        policy={"kind": "fixed_split", "shares": {"control": 0.98, "challenger": 0.02}},
    )
    (said,) = evaluated(service, few.name, "--policy", "challenger=1")["warnings"]
    assert "fewer than 100" in said


def test_wrong_usage(service: ThrowawayService, filled: Filled, tmp_path: Path) -> None:
    where = (filled.name, "--data", service.data)
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"kind": "thompson", "depth": 3}')
    assert "expected one at least" in refused(2, *where)
    assert "has no parameter" in refused(2, *where, "--policy", wrong) or "depth" in refused(
        2, *where, "--policy", wrong
    )
    assert "expected a file, shares such as" in refused(2, *where, "--policy", "thomson")
    assert "expected shares such as" in refused(2, *where, "--policy", "control=x")
    assert "nobody" in refused(2, *where, "--policy", "nobody=1")
    assert "no arm has a model" in refused(1, *where, "--version", "ranker/v2")
    assert "has no metric 'depth'" in refused(1, *where, "--policy", "control=1", "--metric", "depth")
    assert "--outcome: expected ridge" in refused(
        2, *where, "--policy", "control=1", "--outcome", "os.system"
    )
    assert "--plot writes an SVG" in refused(2, *where, "--policy", "control=1", "--plot", "x.png")
    assert "--alpha: expected" in refused(2, *where, "--policy", "control=1", "--alpha", "2")
    for tau in ("0", "1e101", "inf"):
        assert "--tau" in refused(2, *where, "--policy", "control=1", "--tau", tau)
    assert "There is no Parquet export" in refused(1, tmp_path / "none.parquet", "--policy", "control=1")
    assert "is there twice" in refused(2, *where, "--policy", "control=1", "--policy", "control=1")
    assert "There is no experiment" in refused(1, "nobody", "--data", service.data, "--policy", "a=1")

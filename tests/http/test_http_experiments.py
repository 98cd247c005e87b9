"""Experiments over HTTP, as API.md says: created, changed, read."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from commands import bandit_serve
from http_calls import check_problem, decide, decide_many, draft, experiment, new_name, reward_many, running
from services import ThrowawayService
from stores import wait_until

ARM_METRIC = {
    "n", "mean", "std", "interval", "difference", "difference_interval", "lift", "lift_interval", "p_value",
    "probability_best", "expected_loss", "preview",
}  # fmt: skip
RESULTS = {
    "experiment",
    "status",
    "as_of",
    "arms",
    "srm",
    "pending",
    "crossovers",
    "winner",
    "reason",
    "decision",
}


def is_time(text: str) -> bool:
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


def test_the_example_of_the_contract_without_what_is_not_built(service: ThrowawayService) -> None:
    body = {
        "id": "ranker-v2",
        "arms": [{"name": "control"}, {"name": "challenger", "payload": {"any": "json"}}],
        "control": "control",
        "unit": "user",
        "policy": {"kind": "thompson", "min_share": 0.02},
        "metrics": [{"name": "click", "kind": "binary", "goal": "maximize", "role": "objective"}],
        "attribution": {"window": "1h", "missing": "zero"},
        "stopping": {"min_samples": 1000, "alpha": 0.05, "promote_winner": False},
    }
    made = service.call("POST", "/v1/experiments", body)
    assert made.status == 201
    assert made.headers["ETag"]
    for field, value in body.items():
        if field not in ("arms", "metrics", "stopping"):
            assert made.body[field] == value
    assert body["metrics"][0].items() <= made.body["metrics"][0].items()
    assert [arm["name"] for arm in made.body["arms"]] == ["control", "challenger"]
    assert made.body["arms"][1]["payload"] == {"any": "json"}
    assert made.body["status"] == "draft"
    assert is_time(made.body["created_at"])
    shown = service.call("GET", "/v1/experiments/ranker-v2")
    assert (shown.status, shown.body, shown.headers["ETag"]) == (200, made.body, made.headers["ETag"])
    listed = service.call("GET", "/v1/experiments")
    assert listed.status == 200
    assert made.body in listed.body["experiments"]
    check_problem(service.call("POST", "/v1/experiments", body), 409)


def test_defaults(service: ThrowawayService) -> None:
    body = experiment(metrics=[{"name": "spend", "kind": "continuous"}])
    del body["policy"], body["attribution"]
    made = service.call("POST", "/v1/experiments", body).body
    assert made["control"] == "control"
    assert made["unit"] == "request"
    assert made["attribution"] == {"window": "1h", "missing": "ignore"}
    assert made["metrics"][0]["role"] == "objective"
    assert made["metrics"][0]["goal"] == "maximize"


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"id": ""}, "id"),
        ({"id": ".hidden"}, "id"),
        ({"id": "a/b"}, "id"),
        ({"id": "a" * 129}, "id"),
        ({"id": "ü"}, "id"),
        ({"id": 7}, "id"),
        ({"arms": []}, "arms"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arms[1].name"),
        ({"arms": [{"name": "a"}, {"name": "b", "weight": 1}]}, "arms[1].weight"),
        ({"arms": [{"name": "a b"}]}, "arms[0].name"),
        ({"arms": [{"name": "a", "model": "m"}]}, "arms[0]"),
        ({"arms": [{"name": "a", "model": "m", "version": "v"}]}, "arms[0].version"),
        ({"arms": [{"name": "a", "payload": "x" * 70_000}]}, "arms[0].payload"),
        ({"arms": [{"name": "a", "payload": 2**70}]}, "arms[0].payload"),
        ({"control": "nobody"}, "control"),
        ({"unit": "session"}, "unit"),
        ({"metrics": []}, "metrics"),
        ({"metrics": [{"name": "a", "kind": "gauge"}]}, "metrics[0].kind"),
        ({"metrics": [{"name": "a", "kind": "bounded"}]}, "metrics[0]"),
        ({"metrics": [{"name": "a", "kind": "bounded", "low": 1, "high": 1}]}, "metrics[0].high"),
        ({"metrics": [{"name": "a", "kind": "binary", "low": 0}]}, "metrics[0]"),
        ({"metrics": [{"name": "a", "kind": "binary", "role": "secondary"}]}, "metrics"),
        ({"metrics": [{"name": n, "kind": "binary", "role": "objective"} for n in "ab"]}, "metrics"),
        ({"attribution": {}}, "attribution.missing"),
        ({"attribution": {"missing": "maybe"}}, "attribution.missing"),
        ({"attribution": {"missing": "zero", "window": "1 hour"}}, "attribution.window"),
        ({"attribution": {"missing": "zero", "window": 3600}}, "attribution.window"),
        ({"attribution": {"missing": "zero", "window": "-1h"}}, "attribution.window"),
        ({"attribution": {"missing": "zero", "window": "1h\n"}}, "attribution.window"),
        ({"attribution": {"missing": "zero", "window": "1000d"}}, "attribution.window"),
        ({"policy": {"kind": "magic"}}, "policy.kind"),
        ({"policy": {"kind": "thompson", "epsilon": 0.1}}, "policy.epsilon"),
        ({"policy": {"kind": "thompson", "min_share": 0.6}}, "policy.min_share"),
        ({"policy": {"kind": "thompson", "min_share": -0.1}}, "policy.min_share"),
        ({"policy": {"kind": "thompson", "refresh": "soon"}}, "policy.refresh"),
        ({"policy": {"kind": "fixed_split", "shares": {"nobody": 1}}}, "policy.shares"),
        ({"policy": {"kind": "fixed_split", "shares": {"control": 0}}}, "policy.shares"),
        ({"policy": {"kind": "fixed_split", "shares": {"control": 1e308, "challenger": 1e308}}}, None),
        ({"policy": {"kind": "epsilon_greedy", "epsilon": 2}}, "policy.epsilon"),
        ({"policy": {"kind": "softmax", "temperature": 0}}, "policy.temperature"),
        ({"policy": {"kind": "exp3", "gamma": 0}}, "policy.gamma"),
        ({"policy": {"kind": "thompson", "half_life": "0s"}}, "policy.half_life"),
        ({"policy": {"kind": "thompson", "warmup": 10**30}}, "policy.warmup"),
        ({"policy": {"kind": "thompson", "min_share": 0.4, "max_share": 0.3}}, "policy.min_share"),
        ({"policy": {"kind": "thompson", "prior": {"beta": -1}}}, "policy.prior.beta"),
        ({"policy": {"kind": "thompson", "prior": {"gamma": 1}}}, "policy.prior"),
        ({"policy": {"kind": "thompson", "pseudo_history": {"n": -1, "mean": 0}}}, "policy.pseudo_history.n"),
        ({"policy": {"kind": "ucb1"}, "unit": "user"}, "policy.kind"),
        ({"policy": {"kind": "kl_ucb"}, "metrics": [{"name": "a", "kind": "continuous"}]}, "policy.kind"),
        ({"stopping": {"alpha": 0}}, "stopping.alpha"),
        ({"stopping": {"alpha": 1}}, "stopping.alpha"),
        ({"stopping": {"min_samples": -1}}, "stopping.min_samples"),
        ({"stopping": {"expected_samples": 0}}, "stopping.expected_samples"),
        ({"stopping": {"expected_samples": -5_000}}, "stopping.expected_samples"),
        ({"stopping": {"expected_samples": 10**13}}, "stopping.expected_samples"),
        ({"stopping": {"expected_samples": 0.5}}, "stopping.expected_samples"),
        ({"stopping": {"expected_samples": None}}, "stopping.expected_samples"),
        ({"stopping": {"min_samples": 2**70}}, "stopping.min_samples"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_wrong_experiment_is_told_where_it_is_wrong(
    service: ThrowawayService, changes: dict[str, Any], at: str | None
) -> None:
    answer = service.call("POST", "/v1/experiments", experiment(**changes))
    problem = check_problem(answer, 400)
    if at is not None:
        assert at in [error["at"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ({"n": {"control": 10}, "mean": {"challenger": 0.5}}, 400),
        ({"n": 10, "mean": {"challenger": 0.5}}, 400),
        ({"n": {"control": 0}, "mean": {}}, 201),
        ({"n": {"control": 10}, "mean": {"control": 0.0}}, 201),
        ({"n": {"control": 10}, "mean": 0.5}, 201),
    ],
)
def test_no_mean_is_guessed_for_a_pseudo_history(
    service: ThrowawayService, history: dict[str, Any], status: int
) -> None:
    policy = {"kind": "thompson", "pseudo_history": history}
    answer = service.call("POST", "/v1/experiments", experiment(policy=policy))
    other = draft(service)
    path = f"/v1/experiments/{other}/policy"
    if status == 201:
        assert answer.status == 201
        assert service.call("PUT", path, policy).status == 200
    else:
        check_problem(answer, 400, "policy.pseudo_history.mean")
        check_problem(service.call("PUT", path, policy), 400, "pseudo_history.mean")


ANOTHER_DRAFT: list[dict[str, Any]] = [
    {"arms": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
    {"arms": [{"name": "challenger"}, {"name": "control"}], "control": "challenger"},
    {"arms": [{"name": "only"}]},
    {"metrics": [{"name": "spend", "kind": "continuous"}, {"name": "click", "kind": "binary"}]},
    {"unit": "user", "attribution": {"missing": "zero", "window": "2h"}},
    {
        "context": [{"name": "hour", "kind": "numeric"}],
        "policy": {"kind": "lin_ts"},
        "attribution": {"missing": "zero"},
    },
    {"policy": {"kind": "thompson", "warmup": 5}, "stopping": {"min_samples": 7}},
]


@pytest.mark.parametrize("changes", ANOTHER_DRAFT, ids=lambda changes: "-".join(changes))
def test_a_draft_can_be_changed_whole(service: ThrowawayService, changes: dict[str, Any]) -> None:
    name = draft(service)
    path = f"/v1/experiments/{name}"
    # Arms that came and were paused are gone with it; and what was asked before knows nothing of it.
    assert (
        service.call("POST", f"{path}/arms", {"name": "third", "ramp": {"from": 0.1, "over": "1h"}}).status
        == 200
    )
    assert service.call("POST", f"{path}/arms/third/pause").status == 200
    assert service.call("GET", f"{path}/results").status == 200
    before = service.call("GET", path)
    body = experiment(id=name, **changes)
    check_problem(service.call("PUT", path, body, {"If-Match": '"1"'}), 412)
    answer = service.call("PUT", path, body, {"If-Match": before.headers["ETag"]})
    made = service.call("POST", "/v1/experiments", {**body, "id": new_name()}).body
    own = {"id", "revision", "created_at", "updated_at"}
    assert answer.status == 200
    assert {key: answer.body[key] for key in answer.body.keys() - own} == {
        key: made[key] for key in made.keys() - own
    }
    assert (answer.body["revision"], answer.body["created_at"]) == (4, before.body["created_at"])
    assert service.call("GET", path).headers["ETag"] == answer.headers["ETag"] != before.headers["ETag"]
    history = service.call("GET", f"{path}/history").body["history"]
    assert [entry["what"] for entry in history] == ["create", "add_arm", "pause_arm", "put"]
    assert service.call("POST", f"{path}/start").status == 200
    context = {"context": {"hour": 3.0}} if "context" in changes else {}
    tokens = [decide(service, name, unit=f"u{i}", **context)["decision_id"] for i in range(10)]
    assert set(reward_many(service, tokens, [1.0] * 10)) == {"accepted"}
    results = service.call("GET", f"{path}/results").body
    assert [arm["name"] for arm in results["arms"]] == [arm["name"] for arm in made["arms"]]
    metric = made["metrics"][0]["name"]
    counted = sum(arm["metrics"][metric]["n"] for arm in results["arms"]) + (results["pending"] or 0)
    assert counted == 10
    replayed = bandit_serve("replay", name, "--data", service.data, "--json")
    assert (replayed.status, replayed.document["equal"]) == (0, True)
    check_problem(service.call("PUT", path, body), 409)


def test_only_a_whole_experiment_of_the_same_name_makes_another_draft(service: ThrowawayService) -> None:
    name = draft(service)
    path = f"/v1/experiments/{name}"
    before = service.call("GET", path).body
    check_problem(service.call("PUT", path, experiment()), 400, "id")
    check_problem(service.call("PUT", path, {"id": name}), 400, "arms", "metrics")
    check_problem(service.call("PUT", path, experiment(id=name, control="nobody")), 400, "control")
    version = experiment(id=name, arms=[{"name": "a", "model": "m", "version": "v1"}])
    check_problem(service.call("PUT", path, version), 400, "arms[0].version")
    assert service.call("GET", path).body == before
    check_problem(service.call("PUT", "/v1/experiments/nobody", experiment(id="nobody")), 404)


def test_an_unknown_experiment_is_404(service: ThrowawayService) -> None:
    for method, rest, body in [
        ("GET", "", None),
        ("GET", "/results", None),
        ("GET", "/results/history", None),
        ("GET", "/timeline", None),
        ("GET", "/history", None),
        ("POST", "/start", None),
        ("POST", "/pause", None),
        ("POST", "/stop", {}),
        ("PUT", "/policy", {"kind": "thompson"}),
    ]:
        check_problem(service.call(method, f"/v1/experiments/nobody{rest}", body), 404)


MOVES = {"start": ("draft", "paused"), "pause": ("running",), "stop": ("running", "paused")}


@pytest.mark.parametrize("status", ["draft", "running", "paused", "stopped"])
@pytest.mark.parametrize("move", ["start", "pause", "stop"])
def test_the_states(service: ThrowawayService, status: str, move: str) -> None:
    name = draft(service)
    for step in {
        "draft": [],
        "running": ["start"],
        "paused": ["start", "pause"],
        "stopped": ["start", "stop"],
    }[status]:
        assert service.call("POST", f"/v1/experiments/{name}/{step}").status == 200
    answer = service.call("POST", f"/v1/experiments/{name}/{move}", {"reason": "because"})
    if status in MOVES[move]:
        assert (answer.status, answer.body["status"]) == (
            200,
            {"start": "running", "pause": "paused", "stop": "stopped"}[move],
        )
    else:
        check_problem(answer, 409)
        assert service.call("GET", f"/v1/experiments/{name}").body["status"] == status


def test_changes_heed_if_match(service: ThrowawayService) -> None:
    name = draft(service)
    path = f"/v1/experiments/{name}"
    old = service.call("GET", path).headers["ETag"]
    started = service.call("POST", f"{path}/start", headers={"If-Match": old})
    assert started.status == 200
    now = service.call("GET", path).headers["ETag"]
    assert now == started.headers["ETag"] != old
    stale = [
        ("POST", "/pause", {}),
        ("POST", "/stop", {}),
        ("PUT", "/policy", {"kind": "thompson"}),
    ]
    for method, rest, body in stale:
        for etag in (old, '"999"', '"nonsense"', "nonsense"):
            check_problem(service.call(method, path + rest, body, {"If-Match": etag}), 412)
    assert service.call("GET", path).headers["ETag"] == now
    assert service.call("POST", f"{path}/pause", headers={"If-Match": "*"}).status == 200
    newest = service.call("GET", path).headers["ETag"]
    changed = service.call("PUT", f"{path}/policy", {"kind": "thompson"}, {"If-Match": newest})
    assert (changed.status, changed.body["policy"]["kind"]) == (200, "thompson")


def test_one_of_two_changes_from_one_state_wins(service: ThrowawayService) -> None:
    name = running(service)
    etag = service.call("GET", f"/v1/experiments/{name}").headers["ETag"]
    policies = [{"kind": "fixed_split", "shares": {"control": weight}} for weight in (1, 2)]
    statuses = [
        service.call("PUT", f"/v1/experiments/{name}/policy", p, {"If-Match": etag}).status for p in policies
    ]
    assert statuses == [200, 412]


def test_the_policy_changes_while_it_runs_and_keeps_what_was_learned(service: ThrowawayService) -> None:
    name = running(service)
    columns = decide_many(service, name, [f"u{i}" for i in range(2_000)])
    reward_many(service, columns["decision_ids"], [float(arm == 1) for arm in columns["arms"]])
    for policy in ({"kind": "thompson", "min_share": 0.05}, {"kind": "ucb1"}, {"kind": "thompson"}):
        changed = service.call("PUT", f"/v1/experiments/{name}/policy", policy)
        assert changed.status == 200
        assert changed.body["policy"] == {**policy}
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    assert arms[1]["share"] == pytest.approx(0.98, abs=1e-6)
    service.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "fixed_split", "shares": {"control": 1}})
    assert decide(service, name)["arm"] == "control"
    service.call("POST", f"/v1/experiments/{name}/stop")
    check_problem(service.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "thompson"}), 409)


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        ({}, 400),
        ({"kind": "magic"}, 400),
        ({"kind": "thompson", "more": 1}, 400),
        ({"kind": "fixed_split", "shares": {"nobody": 1}}, 400),
        ({"kind": "squarecb"}, 400),
    ],
)
def test_a_wrong_policy_changes_nothing(
    service: ThrowawayService, policy: dict[str, Any], status: int
) -> None:
    name = running(service)
    before = service.call("GET", f"/v1/experiments/{name}")
    check_problem(service.call("PUT", f"/v1/experiments/{name}/policy", policy), status)
    after = service.call("GET", f"/v1/experiments/{name}")
    assert (after.body, after.headers["ETag"]) == (before.body, before.headers["ETag"])


def test_the_history_says_who_changed_what_and_when(service: ThrowawayService) -> None:
    name = running(service)
    service.call("PUT", f"/v1/experiments/{name}/policy", {"kind": "thompson"})
    service.call("POST", f"/v1/experiments/{name}/pause", {"reason": "a doubt"})
    service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "challenger", "reason": "enough"})
    history = service.call("GET", f"/v1/experiments/{name}/history")
    assert history.status == 200
    entries = history.body["history"]
    assert [entry["what"] for entry in entries] == ["create", "start", "policy", "pause", "stop"]
    assert [entry["reason"] for entry in entries] == [None, None, None, "a doubt", "enough"]
    assert [entry["policy"] for entry in entries] == [
        "fixed_split",
        "fixed_split",
        "thompson",
        "thompson",
        "thompson",
    ]
    assert all(is_time(entry["at"]) and entry["who"] for entry in entries)
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)


@pytest.mark.parametrize("policy", ["fixed_split", "thompson"])
def test_once_nobody_is_drawn_for_the_shares_are_those_that_are_served(
    service: ThrowawayService, policy: str
) -> None:
    def shares(name: str) -> list[list[float]]:
        results = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
        stats = service.call("GET", "/v1/stats").body["experiments"][name]["shares"]
        shown = bandit_serve("experiments", "show", name, "--data", service.data)
        assert shown.status == 0
        words = [row.split() for row in shown.out.splitlines()]
        table = [float(row[-3]) for row in words if row[:1] in (["control"], ["challenger"])]
        return [[arm["share"] for arm in results], list(stats.values()), table]

    weights = {"shares": {"control": 0.3, "challenger": 0.7}} if policy == "fixed_split" else {}
    name = running(service, policy={"kind": policy, **weights})
    at_first = [0.3, 0.7] if weights else [0.5, 0.5]
    assert shares(name) == [pytest.approx(at_first, abs=1e-4)] * 3
    service.call("POST", f"/v1/experiments/{name}/pause")
    assert service.call("POST", f"/v1/experiments/{name}/decide", {}).body["arm"] == "control"
    assert shares(name) == [[1.0, 0.0]] * 3
    service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "challenger"})
    assert service.call("POST", f"/v1/experiments/{name}/decide", {}).body["arm"] == "challenger"
    assert shares(name) == [[0.0, 1.0]] * 3
    without = running(service, policy={"kind": policy})
    service.call("POST", f"/v1/experiments/{without}/stop")
    assert shares(without) == [[1.0, 0.0]] * 3


def test_the_expected_number_of_samples_tunes_the_intervals(service: ThrowawayService) -> None:
    widths = []
    for given, shown in (({}, 5_000), ({"expected_samples": 200}, 200), ({"expected_samples": 10**6}, 10**6)):
        name = running(service, stopping=given, attribution={"missing": "ignore"})
        assert service.call("GET", f"/v1/experiments/{name}").body["stopping"]["expected_samples"] == shown
        columns = decide_many(service, name, [f"u{i}" for i in range(400)])
        values = [float(i % 3 == 0) for i in range(400)]
        reward_many(service, columns["decision_ids"], values)
        metric = service.call("GET", f"/v1/experiments/{name}/results").body["arms"][1]["metrics"]["click"]
        low, high = metric["difference_interval"]
        widths.append(high - low)
    assert widths[1] < 0.8 * widths[0] < 0.5 * widths[2]


def test_stopping_names_a_winner_that_is_an_arm(service: ThrowawayService) -> None:
    name = running(service)
    check_problem(service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "nobody"}), 400, "winner")
    check_problem(service.call("POST", f"/v1/experiments/{name}/stop", {"loser": "control"}), 400)
    check_problem(service.call("POST", f"/v1/experiments/{name}/stop", {"reason": "x" * 1001}), 400, "reason")
    assert service.call("GET", f"/v1/experiments/{name}").body["status"] == "running"


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.parametrize("unit", ["user", "request"])
@pytest.mark.parametrize("policy", ["fixed_split", "thompson"])
def test_results_have_the_fields_of_the_contract(
    service: ThrowawayService, missing: str, unit: str, policy: str
) -> None:
    metrics = [{"name": "click", "kind": "binary"}, {"name": "spend", "kind": "continuous"}]
    name = draft(
        service,
        unit=unit,
        metrics=metrics,
        policy={"kind": policy},
        attribution={"missing": missing, "window": "24h"},
    )
    empty = service.call("GET", f"/v1/experiments/{name}/results")
    assert (empty.status, set(empty.body), empty.body["status"]) == (200, RESULTS, "draft")
    service.call("POST", f"/v1/experiments/{name}/start")
    columns = decide_many(service, name, [f"u{i}" for i in range(1_000)])
    values = [float((i * 7 + arm) % 5 == 0) for i, arm in enumerate(columns["arms"])]
    assert set(values) == {0.0, 1.0}
    assert set(reward_many(service, columns["decision_ids"], values)) == {"accepted"}
    body = service.call("GET", f"/v1/experiments/{name}/results").body
    assert set(body) == RESULTS
    assert (body["experiment"], body["status"], body["winner"]) == (name, "running", None)
    assert is_time(body["as_of"])
    assert body["reason"]
    assert set(body["srm"]) == {"p_value", "verdict"}
    assert body["srm"]["verdict"] in ("ok", "insufficient")
    assert [arm["name"] for arm in body["arms"]] == ["control", "challenger"]
    assert sum(arm["share"] for arm in body["arms"]) == pytest.approx(1.0)
    for arm in body["arms"]:
        assert set(arm) == {"name", "share", "exposures", "metrics"}
        assert set(arm["metrics"]) == {"click", "spend"}
        # Of two metrics that are compared.
        corrected = ARM_METRIC | {"p_value_corrected"}
        assert all(set(metric) == corrected for metric in arm["metrics"].values())
    control = body["arms"][0]["metrics"]["click"]
    compared = {"difference", "difference_interval", "lift", "lift_interval", "p_value"}
    assert all(control[field] is None for field in compared), "control is compared with nothing"
    n = [arm["metrics"]["click"]["n"] for arm in body["arms"]]
    if missing == "ignore":
        assert (sum(n), body["pending"]) == (1_000, 0)
        assert (
            body["arms"][1]["metrics"]["click"]["interval"][0] < body["arms"][1]["metrics"]["click"]["mean"]
        )
        assert 0 < body["arms"][1]["metrics"]["click"]["p_value"] <= 1
    else:
        assert (sum(n), body["pending"]) == (0, 1_000)


def test_results_over_time_have_the_fields_of_the_contract(service: ThrowawayService) -> None:
    name = draft(service, policy={"kind": "fixed_split"})
    path = f"/v1/experiments/{name}"
    empty = service.call("GET", f"{path}/results/history")
    assert (empty.status, empty.body["at"], set(empty.body["arms"])) == (200, [], {"control", "challenger"})
    service.call("POST", f"{path}/start")
    for i in range(3):
        columns = decide_many(service, name, [f"u{i}-{j}" for j in range(100)])
        values = [float(j % 5 == 0) for j in range(100)]
        assert set(reward_many(service, columns["decision_ids"], values)) == {"accepted"}
        time.sleep(1.1)
    history = service.call("GET", f"{path}/results/history").body
    line = service.call("GET", f"{path}/timeline").body
    now = service.call("GET", f"{path}/results").body
    assert set(history) == {"experiment", "at", "regret_bound", "arms"}
    assert set(line) == {"at", "arms", "changes"}
    assert history["at"] == line["at"] == sorted(line["at"])
    assert len(line["at"]) >= 3
    assert all(map(is_time, line["at"]))
    assert [change["what"] for change in line["changes"]] == ["create", "start"]
    assert all(set(change) == {"at", "what", "who"} for change in line["changes"])
    for arm in now["arms"]:
        mine, past = line["arms"][arm["name"]], history["arms"][arm["name"]]
        assert set(mine) == {"share", "exposures", "mean", "interval"}
        assert set(past) == {"share", "exposures", "metrics"}
        assert mine["share"] == pytest.approx([0.5] * len(line["at"]))
        assert mine["exposures"][-1] == arm["exposures"]
        (metric,) = arm["metrics"].values()
        (of_metric,) = past["metrics"].values()
        assert mine["mean"][-1] == of_metric["mean"][-1] == metric["mean"]
        assert mine["interval"][-1] == of_metric["interval"][-1] == metric["interval"]
        assert metric["interval"] is not None
    assert len(service.call("GET", f"{path}/timeline?points=2").body["at"]) == 2
    for points in ("0", "501", "two", "-1"):
        check_problem(service.call("GET", f"{path}/timeline?points={points}"), 400, "points")
        check_problem(service.call("GET", f"{path}/results/history?points={points}"), 400, "points")


def test_exposures_are_in_the_results_after_the_flush(service: ThrowawayService) -> None:
    name = running(service)
    arms = decide_many(service, name, [f"u{i}" for i in range(500)])["arms"]
    expected = [arms.count(0), arms.count(1)]

    def exposures() -> list[int]:
        by_arm = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
        return [arm["exposures"] for arm in by_arm]

    wait_until(lambda: exposures() == expected)

"""`bandit-serve learn` with a real service: killed again and again, it learns from each event once."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time

import msgspec
import numpy as np
import pytest
from commands import bandit_serve
from http_calls import new_name, upload
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.log import events
from bandit_serve.log.offset import START
from bandit_serve.models import Artifact, FactorizationMachine, LinearItems, MatrixFactorization, load_model
from bandit_serve.store import PrivateServer
from bandit_serve.store.store import Store
from bandit_serve.training.learning.learner import CHECKPOINT, ContinuousLearner, Followed, in_order
from bandit_serve.training.rating_rule import RatingRule
from bandit_serve.training.ratings import synthetic_ratings

RATINGS = synthetic_ratings(seed=5, n_users=60, n_items=80, n_ratings=1_500)


class Traffic(threading.Thread):
    """Predictions and their rewards, which shift after a while, until it is stopped."""

    def __init__(self, service, experiment):
        super().__init__(daemon=True)
        self.service, self.experiment = service, experiment
        self.ended, self.sent = threading.Event(), 0

    def run(self):
        chosen = random.Random(1)
        while not self.ended.is_set():
            row = chosen.randrange(len(RATINGS))
            user, item = (
                str(RATINGS.users[row]),
                f"new-{row % 9}" if row % 7 == 0 else str(RATINGS.items[row]),
            )
            ask = {"user_id": user, "item_id": item, "features": {"evening": row % 2 == 0}}
            if row % 3 == 0:
                ask = {"user_id": user, "item_ids": [item]}
            path = f"/v1/experiments/{self.experiment}/predict"
            decided = self.service.call("POST", path, ask)
            assert decided.status == 200, decided
            reward = {
                "decision_id": decided.body["decision_id"],
                "value": float(RATINGS.values[row]) + row % 2,
            }
            assert self.service.call("POST", "/v1/rewards", reward).status == 200
            self.sent += 1

    def stop(self):
        """Returns when all that was sent is in the log."""
        self.ended.set()
        self.join(30)
        wait_until(lambda: self.exposures() == self.sent)

    def exposures(self):
        results = self.service.call("GET", f"/v1/experiments/{self.experiment}/results").body
        return sum(arm["exposures"] for arm in results["arms"])


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    """One service for all of them: each learns a model of its own."""
    with ThrowawayService(tmp_path_factory.mktemp("learn") / "d", "--learn") as service:
        yield service


@pytest.fixture(params=[MatrixFactorization, FactorizationMachine, LinearItems], ids=["mf", "fm", "linear"])
def running(request, serving, tmp_path):
    model = new_name("model")
    path = tmp_path / "m.safetensors"
    request.param(4, n_epochs=3).fit(RATINGS.users, RATINGS.items, RATINGS.values).save(path)
    upload(serving, model, path.read_bytes(), {"status": "staged"})
    promoted = serving.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    assert promoted.status == 200, promoted
    return serving, model, started(serving, model), path


def started(service, model, **metric):
    name = new_name()
    body = {
        "id": name,
        "arms": [{"name": arm, "model": model, "version": "v1"} for arm in ("control", "challenger")],
        "metrics": [{"name": "stars", "kind": "continuous", **metric}],
        "policy": {"kind": "fixed_split"},
        "attribution": {"missing": "ignore", "window": "1h"},
    }
    made = service.call("POST", "/v1/experiments", body)
    assert made.status == 201, made
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
    return name


def learn_command(service, model, *flags):
    return [sys.executable, "-m", "bandit_serve", "learn", model, "--data", str(service.data), *flags]


async def whole_log(url, experiment):
    store = Store(url)
    try:
        entries, at = [], START
        while page := await store.read(experiment, at, 500):
            entries += [(entry.offset, events.decode(entry.kind, entry.data)) for entry in page]
            at = page[-1].offset
        return entries
    finally:
        await store.close()


def versions_with(name, service, model):
    """Versions by name, once the service shows this one with the status that it is published with."""

    def shown():
        versions = service.call("GET", f"/v1/models/{model}").body["versions"]
        return {version["version"]: version for version in versions}

    wait_until(lambda: shown().get(name, {"status": "training"})["status"] != "training")
    return shown()


def test_killed_again_and_again_it_equals_one_that_was_not(running):
    service, model, experiment, path = running
    traffic, chosen = Traffic(service, experiment), random.Random(2)
    traffic.start()
    flags = ("--every", "60", "--checkpoint-every", "0.1", "--gate", "prequential.rmse < 1000")
    kills = scaled(3, 20)
    for _ in range(kills):
        process = subprocess.Popen(
            learn_command(service, model, *flags),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        time.sleep(0.8 + chosen.random() * 1.2)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stderr.close()
    traffic.stop()
    done = bandit_serve("learn", model, "--data", service.data, *flags, "--until-caught-up", "--json")
    assert done.status == 0, done.err
    status = done.document
    assert status["learned"] == traffic.sent
    with PrivateServer.start_or_adopt(service.data) as server:
        log = asyncio.run(whole_log(server.url, experiment))
    base = load_model(Artifact.map(path)), load_model(Artifact.map(path))
    record = service.call("GET", f"/v1/experiments/{experiment}").body
    window_ms = 3_600_000
    assert record["attribution"]["window"] == "1h"
    once = ContinuousLearner(*base, [Followed(experiment, 1, window_ms, RatingRule())])
    for offset, name, event in in_order({experiment: log}, 2**62):
        once.apply(name, offset, event)
    assert once.learned == traffic.sent
    assert once.prequential.metrics() == status["metrics"]
    last = f"v1-learned-{status['learned']}"
    published = versions_with(last, service, model)
    assert published[last]["status"] == "staged"
    assert len(published) > 2
    artifact = Artifact.map(service.data / "artifacts" / f"{published[last]['sha256']}.safetensors")
    loaded, expected = load_model(artifact), once.model
    for part in ("user_factors", "item_factors", "user_biases", "item_biases"):
        np.testing.assert_allclose(getattr(loaded, part), getattr(expected, part), rtol=0, atol=1e-6)
    assert loaded.predict("u1", "new-1") == pytest.approx(expected.predict("u1", "new-1"), abs=1e-6)
    assert loaded.confidence("u1", "new-1") > 0.1


@pytest.mark.parametrize("running", [FactorizationMachine], indirect=True, ids=["fm"])
def test_it_publishes_promotes_and_adds_arms(running):
    service, model, experiment, _ = running
    traffic = Traffic(service, experiment)
    traffic.start()
    wait_until(lambda: traffic.sent >= 200, 60)
    traffic.stop()
    flags = (
        "--every",
        "80",
        "--promote",
        "prequential.rmse <= 9",
        "--arm-of",
        experiment,
        "--ramp-over",
        "1h",
    )
    done = bandit_serve("learn", model, "--data", service.data, *flags, "--until-caught-up")
    assert done.status == 0, done.err
    assert "goes into production" in done.out
    last = f"v1-learned-{traffic.sent}"
    wait_until(lambda: service.call("GET", f"/v1/models/{model}").body["production"] == last)
    learned = [version for version in versions_with(last, service, model) if "learned" in version]

    def arms():
        return [arm["name"] for arm in service.call("GET", f"/v1/experiments/{experiment}").body["arms"]]

    wait_until(lambda: arms()[2:] == learned)
    for _ in range(30):
        ask = {"user_id": "u1", "item_id": "i1"}
        assert service.call("POST", f"/v1/experiments/{experiment}/predict", ask).status == 200
    again = bandit_serve("learn", model, "--data", service.data, "--status", "--json")
    assert again.document["learned"] == traffic.sent
    assert again.document["metrics"]["prequential.rmse"] < again.document["metrics"]["frozen.rmse"] * 1.2
    ran = bandit_serve("learn", model, "--data", service.data, "--status")
    assert "ratings learned" in ran.out


@pytest.mark.parametrize("running", [MatrixFactorization], indirect=True, ids=["mf"])
def test_only_one_learns_and_wrong_usage_is_a_sentence(running):
    service, model, *_ = running
    first = subprocess.Popen(
        learn_command(service, model), stdout=subprocess.PIPE, text=True, env=clean_environment()
    )
    try:
        assert "goes on from" in first.stdout.readline()
        second = bandit_serve("learn", model, "--data", service.data, "--until-caught-up")
        assert second.status == 1
        assert "Another process learns" in second.err
    finally:
        first.kill()
        first.wait(10)
        first.stdout.close()
    for flags, match in [
        (("none",), "no model"),
        ((model, "--from", "v9"), "no version"),
        ((model, "--experiment", "none", "--until-caught-up"), "no experiment"),
        ((model, "--gate", "rmse <"), "ends too early"),
        ((model, "--ramp-over", "1h"), "--arm-of"),
    ]:
        refused = bandit_serve("learn", *flags, "--data", service.data)
        assert refused.status in (1, 2)
        assert match in refused.err


@pytest.mark.parametrize("running", [MatrixFactorization], indirect=True, ids=["mf"])
def test_what_was_rewarded_is_a_data_set_to_train_on(running):
    service, model, experiment, _ = running
    nothing = bandit_serve("train", "--log", experiment, "--data", service.data)
    assert nothing.status != 0
    assert "no rewarded predictions" in nothing.err
    traffic = Traffic(service, experiment)
    traffic.start()
    wait_until(lambda: traffic.sent >= 300, 60)
    traffic.stop()
    flags = ("--log", experiment, "--family", "bias", "--family", "factorization_machine", "--trials", "1")
    done = bandit_serve("train", *flags, "--folds", "2", "--model", model, "--data", service.data, "--json")
    assert done.status == 0, done.err
    assert done.document["data"]["source"] == f"rewards of {experiment}"
    assert done.document["data"]["ratings"] == traffic.sent
    registered = {each["family"]: each["version"] for each in done.document["versions"]}
    shown = versions_with(registered["factorization_machine"], service, model)
    assert set(registered.values()) <= set(shown)
    sha256 = shown[registered["factorization_machine"]]["sha256"]
    learned = load_model(Artifact.map(service.data / "artifacts" / f"{sha256}.safetensors"))
    assert learned.predict("u1", "i1", {"evening": True}) != learned.predict("u1", "i1", {"evening": False})
    both = bandit_serve("train", "ratings.csv", *flags, "--data", service.data)
    assert both.status == 2
    assert "--log" in both.err
    assert "no experiment" in bandit_serve("train", "--log", "none", "--data", service.data).err


@pytest.mark.parametrize("running", [MatrixFactorization], indirect=True, ids=["mf"])
def test_an_experiment_that_is_set_aside_keeps_no_other_from_being_learned(running):
    service, model, sick, _ = running
    well = started(service, model)
    sent = {}
    for name in (sick, well):
        traffic = Traffic(service, name)
        traffic.start()
        wait_until(lambda traffic=traffic: traffic.sent >= 20, 60)
        traffic.stop()
        sent[name] = traffic.sent

    async def spoil():
        store = Store(PrivateServer(service.data).url)
        await store.append(sick, b"z", b"unknown")
        await store.close()

    asyncio.run(spoil())
    wait_until(lambda: "set_aside" in service.call("GET", f"/v1/experiments/{sick}").body)
    learn = ("learn", model, "--until-caught-up", "--json", "--data", service.data)
    assert bandit_serve(*learn).document["learned"] == sent[well]
    assert bandit_serve("repair", sick, "--leave-out", "--data", service.data).status == 0
    assert bandit_serve(*learn).document["learned"] == sent[well] + sent[sick]


@pytest.mark.parametrize("running", [MatrixFactorization], indirect=True, ids=["mf"])
def test_what_is_to_be_minimized_is_ranked_last_and_other_scales_are_not_mixed_in(running, tmp_path):
    service, model, stars, _ = running
    skips = started(service, model, goal="minimize")
    both = bandit_serve("learn", model, "--until-caught-up", "--data", service.data)
    assert both.status == 2
    assert "different kinds or scales" in both.err
    assert "--rating" in both.err
    for number in range(60):
        ask = {"user_id": f"u{number % 5}", "item_id": "skipped" if number % 2 else "kept"}
        decided = service.call("POST", f"/v1/experiments/{skips}/predict", ask)
        reward = {"decision_id": decided.body["decision_id"], "value": 9.0 if number % 2 else 0.0}
        assert service.call("POST", "/v1/rewards", reward).status == 200
    results = f"/v1/experiments/{skips}/results"
    wait_until(lambda: sum(arm["exposures"] for arm in service.call("GET", results).body["arms"]) == 60)
    learn = (
        "learn",
        model,
        "--until-caught-up",
        "--json",
        "--data",
        service.data,
        "--gate",
        "window.rmse < 99",
    )
    done = bandit_serve(*learn, "--experiment", skips)
    assert done.status == 0, done.err
    assert done.document["learned"] == 60
    version = done.document["versions"][-1]
    sha256 = versions_with(version, service, model)[version]["sha256"]
    learned = load_model(Artifact.map(service.data / "artifacts" / f"{sha256}.safetensors"))
    ranked = [item for item, _ in learned.top_k("u1", 2, among=["skipped", "kept"])]
    assert ranked == ["kept", "skipped"]
    checkpoint = service.data / "learn" / model / CHECKPOINT
    before = msgspec.msgpack.decode(checkpoint.read_bytes())
    del before["rules"]
    checkpoint.write_bytes(msgspec.msgpack.encode(before))
    again = bandit_serve(*learn, "--experiment", skips)
    assert again.status == 0, again.err
    assert again.document["learned"] == 60, "an earlier build had learned them as they are"
    assert again.document["versions"] == ["v1-as-utilities-learned-60"]
    ran = bandit_serve(*learn, "--experiment", stars, "--rating", f"{stars}=-5 + 1 * stars")
    assert ran.status == 0, ran.err
    trained = bandit_serve(
        "train", "--log", skips, "--family", "bias", "--no-register", "--folds", "2", "--json", "--data", service.data,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert trained.document["data"]["source"] == f"rewards of {skips}, as utilities"
    bias = load_model(Artifact.map(tmp_path / "out" / "bias.safetensors"))
    assert bias.predict("u1", "kept") > -2 > -7 > bias.predict("u1", "skipped")

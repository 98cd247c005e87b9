"""No unpickling of data from the store, an artifact or the network: a service without pickle does all it must."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import bandit_serve
from http_calls import new_name, upload
from services import ThrowawayService

from bandit_serve.models import FAMILIES
from bandit_serve.training.ratings import synthetic_ratings

# Run by every Python that starts with its folder on the path.
POISON = """
import _pickle, pickle, marshal, os

def refused(*args, **kwargs):
    with open(os.environ["UNPICKLED"], "a") as file:
        file.write("unpickled\\n")
    raise RuntimeError("something was unpickled")

class Refused:
    def __init__(self, *args, **kwargs):
        refused()

for module in (pickle, _pickle):
    module.loads = module.load = refused
    module.Unpickler = Refused
pickle._loads = pickle._load = refused
pickle._Unpickler = Refused
open(os.environ["UNPICKLED"] + ".here", "a").write("poisoned\\n")
"""
RATINGS = synthetic_ratings(seed=3, n_users=40, n_items=60, n_ratings=600)


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "poison").mkdir()
    (tmp_path / "poison" / "sitecustomize.py").write_text(POISON)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "poison"))
    monkeypatch.setenv("UNPICKLED", str(tmp_path / "unpickled"))
    return tmp_path / "unpickled"


def test_a_service_does_without(noted: Path, tmp_path: Path) -> None:
    experiments = {new_name(): (new_name("model"), family) for family in sorted(FAMILIES)}
    data = tmp_path / "d"
    with ThrowawayService(data, "--learn", workers=2) as service:
        for name, (model, family) in experiments.items():
            FAMILIES[family]().fit(RATINGS.users, RATINGS.items, RATINGS.values).save(tmp_path / model)
            artifact = (tmp_path / model).read_bytes()
            assert upload(service, model, artifact, {"status": "staged"}).status == 201
            experiment = {
                "id": name,
                "arms": [{"name": arm, "model": model, "version": "v1"} for arm in ("control", "challenger")],
                "metrics": [{"name": "click", "kind": "binary"}],
                "policy": {"kind": "thompson", "half_life": "1h"},
                "attribution": {"missing": "ignore", "window": "1h"},
            }
            assert service.call("POST", "/v1/experiments", experiment).status == 201
            assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
            for user in range(20):
                ask = (
                    {"user_id": f"u{user}", "item_id": "i1"} if user % 2 else {"user_id": f"u{user}", "k": 5}
                )
                decided = service.call("POST", f"/v1/experiments/{name}/predict", ask)
                assert decided.status == 200, decided
                reward = {"decision_id": decided.body["decision_id"], "value": user % 2}
                assert service.call("POST", "/v1/rewards", reward).status == 200
    with ThrowawayService(data, "--learn") as service:
        for name in experiments:
            results = service.call("GET", f"/v1/experiments/{name}/results")
            assert results.status == 200
            assert sum(arm["exposures"] for arm in results.body["arms"]) == 20
        replayed = bandit_serve("replay", "--data", data)
        assert replayed.status == 0, replayed.err
        for model, _ in experiments.values():
            learned = bandit_serve("learn", model, "--from", "v1", "--data", data, "--until-caught-up")
            assert learned.status == 0, learned.err
    poisoned = Path(f"{noted}.here").read_text().count("poisoned")
    assert poisoned >= 5, "the service, its workers and the commands were all poisoned"
    assert not noted.exists()


@pytest.mark.server
def test_a_pickle_would_have_been_noticed(noted: Path) -> None:
    code = 'python -c "import pickle; pickle.loads(pickle.dumps(1))" 2>/dev/null'
    assert os.system(code) != 0
    assert noted.read_text() == "unpickled\n"

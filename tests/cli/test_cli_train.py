"""`bandit-serve train`, as a command, on made-up ratings."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import bandit_serve
from services import clean_environment
from stores import ThrowawayStore

from bandit_serve.models import Artifact, load_model
from bandit_serve.training.ratings import synthetic_ratings

RUN = """
families:
  matrix_factorization: {n_factors: [4], n_epochs: [15]}
  factorization_machine: {n_factors: [4], n_epochs: [10]}
search: {kind: grid, jobs: 1, backend: sequential}
split: {folds: 2}
gates:
  staging: rmse <= 5
  production: rmse <= 4.9 and not worse than the current one
"""


@pytest.fixture(scope="module")
def ratings(tmp_path_factory) -> Path:
    made = synthetic_ratings(seed=2, n_users=80, n_items=120, n_ratings=3_000)
    place = tmp_path_factory.mktemp("ratings")
    lines = [
        f"{user},{item},{value},{number * 7919 % 100_003}"
        for number, (user, item, value) in enumerate(zip(made.users, made.items, made.values, strict=True))
    ]
    (place / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    movies = ["movieId,title,genres"]
    for number, item in enumerate(sorted(set(made.items.tolist()))):
        movies.append(f"{item},{item} (19{number % 10}5),{'Drama' if number % 2 else 'War|Love'}")
    (place / "movies.csv").write_text("\n".join(movies) + "\n")
    (place / "run.yaml").write_text(RUN)
    return place


def test_from_ratings_to_versions(ratings, tmp_path):
    flags = [
        str(ratings / "ratings.csv"),
        "--config",
        str(ratings / "run.yaml"),
        "--data",
        str(tmp_path / "d"),
    ]
    ran = bandit_serve("train", *flags, "--model", "films", "--out", str(tmp_path / "out"))
    assert ran.status == 0, ran.err
    assert "biases alone" in ran.out
    assert "Versions of films:" in ran.out
    assert "most popular" in ran.out
    assert re.search(r"\w+ ranks best: ndcg@10 0\.\d{4}\.", ran.out)
    assert re.search(
        r"factorization_machine predicts ratings best|matrix_factorization predicts ratings best", ran.out
    )
    assert "measuring the best: 12 fits" in ran.err
    shown = json.loads(bandit_serve("models", "show", "films", "--data", str(tmp_path / "d"), "--json").out)
    by_name = {version["version"]: version for version in shown["versions"]}
    assert {version["family"] for version in by_name.values()} == {
        "matrix_factorization",
        "factorization_machine",
    }
    assert shown["production"] in by_name
    record = by_name["v2"]["metadata"]["training"]
    assert record["data"]["source"] == "ratings.csv"
    assert record["data"]["ratings"] == 3_000
    assert record["gates"]["staging"] == "rmse <= 5"
    assert "rmse" in by_name["v2"]["reason"]
    assert by_name["v2"]["metrics"]["rmse"] == record["metrics"]["rmse"]
    model = load_model(Artifact.map(tmp_path / "out" / "factorization_machine.safetensors"))
    assert model.parameters == record["parameters"]


def test_gates_may_fail_a_version_and_json_is_the_report(ratings, tmp_path):
    flags = [
        str(ratings / "ratings.csv"),
        "--config",
        str(ratings / "run.yaml"),
        "--data",
        str(tmp_path / "d"),
    ]
    ran = bandit_serve("train", *flags, "--family", "bias", "--gate", "staging: rmse < 0.01", "--json")
    assert ran.status == 0, ran.err
    report = json.loads(ran.out)
    assert [version["status"] for version in report["versions"]] == ["failed"]
    assert "is not < 0.01" in report["versions"][0]["reason"]
    assert report["data"]["users"] == 80


def test_versions_of_a_tenant_are_of_it_alone(ratings, tmp_path):
    data = ("--data", str(tmp_path / "d"))
    assert bandit_serve("keys", "create", "--scope", "admin", "--tenant", "shop", *data).status == 0
    flags = [
        str(ratings / "ratings.csv"),
        "--config",
        str(ratings / "run.yaml"),
        "--family",
        "bias",
    ]
    ran = bandit_serve("train", *flags, *data, "--model", "films", "--tenant", "shop", "--json")
    assert ran.status == 0, ran.err
    assert len(ran.document["versions"]) == 1
    listed = bandit_serve("models", "list", *data, "--tenant", "shop", "--json").document["models"]
    assert len(listed) == 1
    assert bandit_serve("models", "list", *data, "--json").document["models"] == []
    unknown = bandit_serve("train", *flags, *data, "--tenant", "nobody")
    assert unknown.status == 1
    assert "no tenant 'nobody'" in unknown.err
    nothing = bandit_serve("train", *flags, *data, "--tenant", "shop", "--no-register")
    assert nothing.status == 2
    assert "--tenant" in nothing.err


def test_without_registering_no_store_is_needed(ratings, tmp_path):
    flags = [
        str(ratings / "ratings.csv"),
        "--config",
        str(ratings / "run.yaml"),
        "--data",
        str(tmp_path / "d"),
    ]
    ran = bandit_serve("train", *flags, "--family", "bias", "--no-register")
    assert ran.status == 0, ran.err
    assert "Not registered:" in ran.out
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("flags", "status", "match"),
    [
        ([], 2, "Which ratings?"),
        (["none.csv"], 1, "There is no ratings file"),
        (["--config", "none.toml"], 2, "can not be read"),
        (["x.csv", "--family", "forest"], 1, "forest"),
        (["x.csv", "--gate", "rmse < 1"], 2, "A gate is"),
        (["x.csv", "--gate", "staging: rmse <"], 1, "ends too early"),
        (["x.csv", "--columns", "who,what"], 2, "Expected columns as"),
    ],
)
def test_wrong_usage_is_one_sentence(flags, status, match):
    ran = bandit_serve("train", *flags)
    assert ran.status == status
    assert match in ran.err


def test_a_store_that_is_not_there_is_said_before_anything_is_trained(ratings, tmp_path):
    flags = [ratings / "ratings.csv", "--config", ratings / "run.yaml", "--data", tmp_path / "d"]
    ran = bandit_serve("train", *flags, "--store", f"unix://{tmp_path}/none")
    assert ran.status != 0
    assert "store" in ran.err
    assert "fits" not in ran.err
    assert "3,000 ratings" in ran.out


def test_models_outlive_a_store_that_is_lost_while_they_are_trained(ratings, tmp_path):
    flags = [ratings / "ratings.csv", "--config", ratings / "run.yaml", "--data", tmp_path / "d"]
    with ThrowawayStore() as store:
        command = [
            sys.executable,
            "-m",
            "bandit_serve",
            "train",
            *flags,
            "--store",
            store.url,
            "--model",
            "films",
        ]
        training = subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        line = training.stderr.readline()
        assert "searching" in line
        store.kill()
        rest = training.communicate(timeout=120)[1]
        assert training.returncode != 0
        (folder,) = (tmp_path / "d").glob("trained-*")
        match = re.search(r"bandit-serve models register films (\S+)/FAMILY.safetensors", rest)
        assert match is not None, rest
        assert match[1] == str(folder)
        store.start()
        for family in ("matrix_factorization", "factorization_machine"):
            done = bandit_serve(
                "models",
                "register",
                "films",
                folder / f"{family}.safetensors",
                "--store",
                store.url,
                "--data",
                tmp_path / "d",
            )
            assert done.status == 0, done.err


def test_columns_repeated_pairs_and_a_family_that_diverges_are_said(ratings, tmp_path):
    lines = (ratings / "ratings.csv").read_text().splitlines()[1:]
    rows = [line.split(",") for line in lines]
    table = [f"{item};{user};{value.replace('.', ',')}" for user, item, value, _ in rows]
    (tmp_path / "plays.txt").write_text("\n".join(["what;who;stars", *table, *table[:100]]) + "\n")
    (tmp_path / "run.yaml").write_text(
        RUN.replace(
            "n_factors: [4], n_epochs: [15]", "n_factors: [4], learning_rate: [90], final_learning_rate: [90]"
        )
    )
    flags = [tmp_path / "plays.txt", "--config", tmp_path / "run.yaml", "--data", tmp_path / "d"]
    flags += ["--columns", "user=who,item=what,rating=stars"]
    ran = bandit_serve("train", *flags)
    assert ran.status == 0, ran.err
    assert "They are of 3,000 pairs of a user and an item" in ran.out
    assert re.search(r"–\s+matrix_factorization\s+failed\s+Training diverged", ran.out)
    assert re.search(r"v1\s+factorization_machine\s+production", ran.out)
    report = json.loads(bandit_serve("train", *flags, "--json", "--no-register").out)
    assert report["data"]["repeated"] == 200
    assert [each["status"] for each in report["versions"]] == ["production", "failed"]


def test_the_best_staged_version_begins_its_promotion(ratings: Path, tmp_path: Path) -> None:
    plan = tmp_path / "promotion.toml"
    plan.write_text('offline = "not worse than the current one"\n')
    data = ("--data", str(tmp_path / "d"), "--json")
    where = (str(ratings / "ratings.csv"), "--model", "films", *data)
    both = bandit_serve("train", *where, "--config", str(ratings / "run.yaml"), "--gated", str(plan))
    assert both.status == 2, both
    assert "--gated" in both.err
    run = (*where, "--family", "bias", "--trials", "1", "--jobs", "1", "--folds", "2")
    first = bandit_serve("train", *run, "--gate", "staging: rmse <= 5", "--gated", str(plan))
    # Nothing is in production to compare it with; the version is there all the same.
    assert first.status == 1, first
    assert "no version in production" in first.err
    assert first.document["versions"][0]["status"] == "staged"
    assert bandit_serve("models", "promote", "films", "v1", *data).status == 0
    second = bandit_serve("train", *run, "--gate", "staging: rmse <= 5", "--gated", str(plan))
    assert second.status == 0, second
    begun = second.document["promotion"]
    assert (begun["version"], begun["former"], begun["state"]) == ("v2", "v1", "offline")
    assert begun["plan"] == {"offline": "not worse than the current one"}

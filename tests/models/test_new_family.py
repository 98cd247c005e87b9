"""Addition of a family by one file and one line of the table: `support/toy_family.py`, in every process of a test."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import bandit_serve
from services import ThrowawayService, clean_environment

from bandit_serve.models import family
from bandit_serve.training.ratings import synthetic_ratings

TESTS = Path(__file__).parents[1]
CONTRACT = "tests/models/test_families.py"
LINE = """
from bandit_serve.models.family import FAMILIES
from toy_family import ItemMean

FAMILIES[ItemMean.family] = ItemMean
"""


@pytest.fixture
def with_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python runs `sitecustomize` as it starts: there the line stands that otherwise is in `models/family.py`."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(LINE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), str(TESTS / "support")]))


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    made = synthetic_ratings(seed=2, n_users=60, n_items=80, n_ratings=1_500)
    lines = [
        f"{user},{item},{value},{number}"
        for number, (user, item, value) in enumerate(zip(made.users, made.items, made.values, strict=True))
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    return path


def test_it_passes_the_contract_of_all_families(with_the_line: None, tmp_path: Path) -> None:
    chosen = "item_mean or head_of_all_items"
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, CONTRACT],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env=clean_environment(),
        check=False,
    )
    passed = re.search(r"^(\d+) passed", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0, ended.stdout
    assert passed is not None
    assert int(passed[1]) > 60


def test_it_is_trained_registered_and_served(with_the_line: None, tmp_path: Path, ratings: Path) -> None:
    flags = ("--model", "m", "--trials", "2", "--folds", "2", "--jobs", "1", "--gate", "production: rmse < 5")
    with ThrowawayService(tmp_path / "data") as service:
        trained = bandit_serve(
            "train", ratings, *flags, "--family", "item_mean", "--data", service.data, "--json"
        )
        assert trained.status == 0, trained.err
        [version] = trained.document["versions"]
        assert (version["family"], version["status"]) == ("item_mean", "production")
        assert set(version["parameters"]) == {"damping", "online_rate"}
        answer = service.call("POST", "/v1/models/m/predict", {"user_id": "u1", "item_ids": ["i1", "i2"]})
        assert answer.status == 200
        assert len(set(answer.body["predictions"])) == 2
        known = service.call("GET", "/v1/models/m/versions?family=item_mean").body["versions"]
        assert [each["version"] for each in known] == [version["version"]]
        description = service.call("GET", "/openapi.json").body
        assert "'item_mean'" in str(description["paths"]["/v1/models/{model}/versions"])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{damping: [1, 1001]}", "families.item_mean.damping must be from 0 to 1000."),
        (
            "{damping: {kind: uniform, low: -1, high: 2}}",
            "families.item_mean.damping must be from 0 to 1000.",
        ),
        ("{online_rate: fast}", "families.item_mean.online_rate must be a number."),
        ("{n_factors: 4}", "families.item_mean: it has no parameter 'n_factors'."),
    ],
)
def test_it_is_refused_outside_its_ranges_with_the_place(
    with_the_line: None, tmp_path: Path, ratings: Path, space: str, message: str
) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(f"families: {{item_mean: {space}}}\n")
    refused = bandit_serve("train", ratings, "--config", run, "--no-register")
    assert refused.status == 1
    assert message in " ".join(refused.err.split())


def test_the_command_knows_it(with_the_line: None) -> None:
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", bandit_serve("train", "--help").out).split())
    assert "popularity, item_mean" in text
    assert "weighted_als, item_mean" in text


def words_of(path: Path) -> set[tuple[type, object]]:
    """Names and whole texts of a module."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    named = {(ast.Name, node.id) for node in nodes if isinstance(node, ast.Name)}
    return named | {(ast.Constant, node.value) for node in nodes if isinstance(node, ast.Constant)}


def test_only_its_file_and_the_table_name_a_family() -> None:
    package = Path(family.__file__).parents[1]
    words = {path: words_of(path) for path in package.rglob("*.py")}
    for kind in family.FAMILIES.values():
        named = {
            path for path in words if words[path] & {(ast.Constant, kind.family), (ast.Name, kind.__name__)}
        }
        named.discard(Path(sys.modules[kind.__module__].__file__ or ""))
        others = {path.relative_to(package).as_posix() for path in named}
        # The package's list of what it exports, and the demo, which is about two of them.
        assert others <= {"models/__init__.py", "models/family.py", "demo/recommender.py"}, kind.family

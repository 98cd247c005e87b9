"""`bandit-serve metrics`, alone on a data directory, and files of experiments that name metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Finished, bandit_serve

from bandit_serve.cli.definitions_file import read_definitions
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.definition import MetricDefinition

TOML = """
[[metrics]]
name = "paid"
kind = "binary"
description = "Paid within a day."

[[metrics]]
name = "revenue"
kind = "continuous"
cap = 500
"""


class Catalogue:
    """Commands on a data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def run(self, *arguments: str | Path, stdin: str = "") -> Finished:
        return bandit_serve("metrics", *arguments, "--data", self.data, stdin=stdin)

    def done(self, *arguments: str | Path, stdin: str = "") -> Any:
        ran = self.run(*arguments, "--json", stdin=stdin)
        assert ran.status == 0, ran.err
        return ran.document

    def experiments(self, *arguments: str | Path, stdin: str = "") -> Finished:
        return bandit_serve("experiments", *arguments, "--data", self.data, stdin=stdin)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue(tmp_path_factory.mktemp("data"))


def results_of(document: Any) -> dict[str, str]:
    return {each["name"]: each["result"] for each in document["metrics"]}


def test_from_a_definition_to_its_removal(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "metrics.toml").write_text(TOML)
    assert results_of(catalogue.done("define", tmp_path / "metrics.toml")) == {
        "paid": "defined",
        "revenue": "defined",
    }
    changed = catalogue.done("define", "revenue", "--kind", "continuous", "--cap", "400", "--owner", "us")
    assert results_of(changed) == {"revenue": "changed"}
    listed = catalogue.done("list")
    assert [each["name"] for each in listed["metrics"]] == ["paid", "revenue"]
    assert (listed["metrics"][1]["cap"], listed["metrics"][1]["owner"]) == (400.0, "us")
    # What `list` prints is what was defined.
    assert results_of(catalogue.done("define", "-", stdin=json.dumps(listed))) == {
        "paid": "unchanged",
        "revenue": "unchanged",
    }
    assert "continuous" in catalogue.run("list").out
    shown = catalogue.run("show", "revenue").out
    assert "400.0" in shown
    assert "No experiment has a metric of this name." in shown
    assert catalogue.done("show", "paid")["updated_by"].startswith("cli:")
    assert catalogue.done("remove", "paid") == {"removed": "paid"}
    for command in ("show", "remove"):
        missing = catalogue.run(command, "paid")
        assert missing.status == 1
        assert "The catalogue has no metric 'paid'." in missing.err


def test_files_of_experiments_may_name_metrics(catalogue: Catalogue) -> None:
    catalogue.done("define", "click", "--kind", "binary")
    document = {
        "id": "named",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "click"}],
        "attribution": {"missing": "zero"},
    }

    def apply(**changes: Any) -> Finished:
        return catalogue.experiments("apply", "-", "--json", stdin=json.dumps({**document, **changes}))

    def result(ran: Finished) -> str:
        assert ran.status == 0, ran.err
        return str(ran.document["experiments"][0]["result"])

    assert result(apply()) == "created"
    assert result(apply()) == "unchanged"
    catalogue.done("define", "click", "--kind", "count")
    assert result(apply()) == "draft changed", "a draft follows the catalogue when it is applied again"
    assert catalogue.experiments("start", "named").status == 0
    catalogue.done("define", "click", "--kind", "binary")
    assert result(apply()) == "unchanged", "one that is started keeps what it has"
    shown = catalogue.experiments("show", "named", "--json").document
    assert shown["metrics"][0]["kind"] == "count"
    [use] = catalogue.done("show", "click")["experiments"]
    assert use == {"experiment": "named", "status": "running", "is_current": False}
    assert "another" in catalogue.run("show", "click").out

    refused = apply(id="other", metrics=[{"name": "click"}, {"name": "clicks"}, {"name": "click", "low": 1}])
    assert refused.status == 1
    for words in ("metrics[1].kind: did you mean click?", "bandit-serve metrics define", "metrics[2].low"):
        assert words in refused.err
    catalogue.done("define", "worth", "--kind", "continuous")
    assert catalogue.experiments("add-metric", "named", '{"name": "worth"}').status == 0
    unknown = catalogue.experiments("add-metric", "named", '{"name": "none"}')
    assert unknown.status == 1
    assert "the catalogue has no metric 'none'" in unknown.err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["stars", "--kind", "bounded", "--low", "5", "--high", "1"], 1, "high: expected a number above low"),
        (["stars", "--kind", "bounde"], 1, "did you mean bounded?"),
        (["no name", "--kind", "binary"], 1, "name: expected a name"),
        (["one", "two", "--kind", "binary"], 2, "expected one name"),
        (["stars"], 2, "stars is no file. To define a metric of this name, give its --kind."),
        (["stars", "--cap", "3"], 2, "--cap is of one metric, which needs a --kind."),
    ],
)
def test_what_is_wrong_is_said(catalogue: Catalogue, arguments: list[str], status: int, words: str) -> None:
    ran = catalogue.run("define", *arguments)
    assert ran.status == status
    assert words in " ".join(ran.err.split())


def test_nothing_is_read_where_there_is_no_store(tmp_path: Path) -> None:
    for command in (["list"], ["show", "a"], ["remove", "a"]):
        assert Catalogue(tmp_path / "none").run(*command).status == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('[{"name": "a", "kind": "binary"}, {"name": "a", "kind": "count"}]', ["[1].name"]),
        (
            '{"metrics": [{"name": "a"}, {"kind": "binary", "nam": "a"}]}',
            ["metrics[0].kind", "metrics[1].nam"],
        ),
        ('{"name": "a", "kind": "binary", "cap": 1}', ["cap"]),
        ('{"name": "a b", "kind": "binary"}', ["name"]),
        ('{"name": "a", "kind": "binary", "updated_at": "x"}', ["updated_at"]),
    ],
)
def test_mistakes_of_a_file_are_told_in_their_places(tmp_path: Path, text: str, places: list[str]) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_definitions(tmp_path / "metrics.json")
    met = [error.at for error in refused.value.errors]
    assert [place for place in places if place not in met] == []


def test_several_files_are_one(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML)
    (tmp_path / "b.yaml").write_text("name: stars\nkind: bounded\nlow: 1\nhigh: 5\n")
    assert read_definitions(tmp_path / "a.toml", tmp_path / "b.yaml") == {
        "paid": MetricDefinition("binary", description="Paid within a day."),
        "revenue": MetricDefinition("continuous", cap=500.0),
        "stars": MetricDefinition("bounded", low=1.0, high=5.0),
    }
    with pytest.raises(InvalidInput) as refused:
        read_definitions(tmp_path / "a.toml", tmp_path / "a.toml")
    assert refused.value.errors[0].at == f"{tmp_path / 'a.toml'}: metrics[0].name"

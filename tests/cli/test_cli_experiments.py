"""`bandit-serve experiments`: files applied, experiments moved, results read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import msgspec.yaml
import pytest
from builders import experiment, record
from commands import bandit_serve, save_model
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.api.views import ExperimentList, experiment_view
from bandit_serve.cli.experiments_file import read_experiments
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.spec import Ramp, Standing

TWO_ARMS: dict[str, Any] = {
    "id": "colour",
    "arms": [{"name": "red"}, {"name": "blue", "payload": {"hex": "#00f"}}],
    "policy": {"kind": "thompson", "min_share": 0.05},
    "metrics": [{"name": "click", "kind": "binary"}, {"name": "spent", "kind": "continuous"}],
    "attribution": {"missing": "ignore"},
}
TOML = """
id = "colour"
policy = {kind = "thompson", min_share = 0.05}
attribution = {missing = "ignore"}
[[arms]]
name = "red"
[[arms]]
name = "blue"
payload = {hex = "#00f"}
[[metrics]]
name = "click"
kind = "binary"
[[metrics]]
name = "spent"
kind = "continuous"
"""
YAML = """
- id: colour
  arms: [{name: red}, {name: blue, payload: {hex: "#00f"}}]
  policy: {kind: thompson, min_share: 0.05}
  metrics: [{name: click, kind: binary}, {name: spent, kind: continuous}]
  attribution: {missing: ignore}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def written(path: Path, *documents: Any) -> Path:
    path.write_text(json.dumps({"experiments": documents}))
    return path


def results_of(finished: Any) -> dict[str, str]:
    return {each["id"]: each["result"] for each in finished.document["experiments"]}


def test_the_same_file_in_three_languages_is_applied_once(data: Path, tmp_path: Path) -> None:
    files = [tmp_path / "e.json", tmp_path / "e.toml", tmp_path / "e.yaml"]
    for file, text in zip(files, (json.dumps(TWO_ARMS), TOML, YAML), strict=True):
        file.write_text(text)
    outcomes = [
        results_of(bandit_serve("experiments", "apply", file, "--json", "--data", data)) for file in files
    ]
    assert outcomes == [{"colour": "created"}, {"colour": "unchanged"}, {"colour": "unchanged"}]
    shown = bandit_serve("experiments", "show", "colour", "--json", "--data", data).document
    assert (shown["status"], shown["revision"]) == ("draft", 1)
    assert shown["arms"][1]["payload"] == {"hex": "#00f"}


def test_another_policy_is_applied_and_what_is_fixed_is_refused_with_all_else(
    data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "e.json"
    assert bandit_serve("experiments", "apply", written(file, TWO_ARMS), "--data", data).status == 0
    other_policy = {**TWO_ARMS, "policy": {"kind": "thompson", "min_share": 0.1}}
    changed = bandit_serve("experiments", "apply", written(file, other_policy), "--json", "--data", data)
    assert results_of(changed) == {"colour": "policy changed"}
    assert bandit_serve("experiments", "start", "colour", "--data", data).status == 0

    new = {**TWO_ARMS, "id": "new"}
    impossible = {
        **TWO_ARMS,
        "unit": "user",
        "arms": [{"name": "red", "payload": 1}, {"name": "blue"}],
        "attribution": {"missing": "zero"},
    }
    refused = bandit_serve("experiments", "apply", written(file, new, impossible), "--data", data)
    assert refused.status == 1
    for words in (
        'colour.unit: is "request" and can not become "user"',
        "colour.arms[0].payload: is null and can not become 1",
        'colour.attribution.missing: is "ignore" and can not become "zero"',
    ):
        assert words in refused.err
    listed = bandit_serve("experiments", "list", "--json", "--data", data).document
    assert [each["id"] for each in listed["experiments"]] == ["colour"]
    assert listed["experiments"][0]["revision"] == 3


def test_arms_that_a_file_has_more_come_and_others_go(data: Path, tmp_path: Path) -> None:
    where, file = ("--data", data), tmp_path / "e.json"

    def applied(**changes: Any) -> Any:
        ran = bandit_serve("experiments", "apply", written(file, {**TWO_ARMS, **changes}), "--json", *where)
        return ran.document["experiments"][0]["result"] if ran.status == 0 else ran.err

    red, blue, green = *TWO_ARMS["arms"], {"name": "green"}
    assert applied() == "created"
    assert bandit_serve("experiments", "start", "colour", *where).status == 0
    assert applied(arms=[red, green, blue]) == "arms changed"
    assert applied(arms=[red, blue, green]) == "unchanged", "an arm is known by its name"
    split = {"kind": "fixed_split", "shares": {"red": 1, "green": 2, "pink": 3}}
    assert applied(arms=[red, green, {"name": "pink"}], policy=split) == "arms and policy changed"
    shown = bandit_serve("experiments", "show", "colour", "--json", *where).document
    assert shown["arm_status"] == {"red": "active", "blue": "removed", "green": "active", "pink": "active"}
    pink = {"name": "pink"}
    assert "the arm 'blue' was removed" in applied(arms=[red, green, pink, blue], policy=split)
    floored = {"kind": "thompson", "min_share": 0.25}
    brown = {"name": "brown"}
    refused = applied(arms=[red, green, pink, brown], policy=floored)
    assert "policy.min_share: expected at most 1/5" in refused, "as the removed one keeps its place"
    assert 'control: is "red" and can not become "green"' in applied(
        arms=[green], policy={"kind": "fixed_split"}
    )


def test_arms_are_added_paused_resumed_and_removed(data: Path, tmp_path: Path) -> None:
    def arms(*arguments: str) -> Any:
        return bandit_serve("experiments", *arguments, "--data", data)

    assert arms("apply", str(written(tmp_path / "e.json", TWO_ARMS))).status == 0
    ramp = ("--ramp-from", "0.05", "--ramp-over", "2h")
    added = arms(
        "add-arm", "colour", "green", "--payload", '{"n": 1}', *ramp, "--reason", "why not", "--json"
    )
    assert added.document["arms"][2]["payload"] == {"n": 1}
    assert added.document["ramps"]["green"] == {"from": 0.05, "over": "2h", "since": None}
    assert arms("pause-arm", "colour", "green").out == "The arm green of colour is paused.\n"
    assert arms("resume-arm", "colour", "green").out == "The arm green of colour is active.\n"
    assert arms("remove-arm", "colour", "green").out == "The arm green of colour is removed.\n"
    assert (arms("remove-arm", "colour", "red").status, arms("remove-arm", "colour", "nobody").status) == (
        1,
        1,
    )
    assert arms("add-arm", "colour", "pink", "--ramp-from", "0.1").status == 2
    assert arms("add-arm", "colour", "pink", "--payload", "{").status == 2
    assert "ramp" not in arms("add-arm", "colour", "pink", "--ramp-from", "2", "--ramp-over", "1h").out
    shown = arms("show", "colour").out
    for words in ("green (removed)", "why not"):
        assert words in shown


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("e.json", json.dumps({**TWO_ARMS, "unt": "user"}), "unknown field `unt`"),
        ("e.json", json.dumps({**TWO_ARMS, "arms": [{"name": "a b"}]}), "arms[0].name: Expected a name"),
        ("e.json", json.dumps({**TWO_ARMS, "policy": {"kind": "tomson"}}), "policy.kind"),
        ("e.json", json.dumps([TWO_ARMS, TWO_ARMS]), "[1].id: the experiment 'colour' is in the file twice"),
        ("e.json", json.dumps({"experiments": TWO_ARMS}), "experiments: expected a list"),
        ("e.json", '{"id":', "is not JSON"),
        ("e.toml", TOML.replace("0.05", "nan"), "policy.min_share: expected a finite number"),
        ("e.toml", "id = ", "is not TOML"),
        ("e.yaml", "- [", "is not YAML"),
        ("e.yml", "!!python/object/apply:os.getcwd []", "is not YAML"),
        ("e.yaml", "just words", "Expected `object`"),
        ("e.yaml", "id: a\nid: b\n", "it gives the key 'id' twice, in what begins in line 1"),
        ("e.yaml", YAML.replace("name: blue,", "name: blue, name: green,"), "it gives the key 'name' twice"),
        ("e.yaml", YAML + "\n---\n- id: x\n  unit: user\n  'unit': user\n", "the key 'unit' twice"),
        ("e.json", '{"id": "a", "arms": [{"name": "x", "name": "y"}]}', "it gives the key 'name' twice"),
        ("e.toml", TOML + '\nid = "b"\nid = "c"', "is not TOML"),
        ("e.json", '{"id": NaN}', "NaN is no number of JSON"),
        ("e.yaml", "id: x\n---\nid: y\n", "document 2.arms: missing required field `arms`"),
        (
            "e.json",
            json.dumps({**TWO_ARMS, "unt": "user", "polic": {}}),
            "polic: unknown field `polic`: did you mean",
        ),
        ("e.json", json.dumps({**TWO_ARMS, "status": "draft"}), "unknown field `status`"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput) as refused:
        read_experiments(tmp_path / name)
    errors = [f"{error.at}: {error.detail}" for error in refused.value.errors]
    assert words in "\n".join([str(refused.value), *errors])


def test_several_documents_and_several_files_are_one(tmp_path: Path) -> None:
    def named(*names: str) -> list[str]:
        return [json.dumps({**TWO_ARMS, "id": name}, indent=2) for name in names]

    texts = {
        "stream.json": "\n".join(named("a", "b")) + "\n",
        "beside.json": "".join(named("a", "b")),
        "list.json": f"[{','.join(named('a', 'b'))}]",
        "both.json": f"[{named('a')[0]}] {named('b')[0]}",
        "documents.yaml": "---\n" + "\n---\n".join(named("a", "b")) + "\n---\n",
        "merged.yaml": YAML.replace("- id: colour", "- &first\n  id: a") + "- {<<: *first, id: b}\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert [each.id for each in read_experiments(tmp_path / name)] == ["a", "b"], name
    (tmp_path / "c.toml").write_text(TOML)
    together = read_experiments(tmp_path / "list.json", tmp_path / "c.toml")
    assert [each.id for each in together] == ["a", "b", "colour"]
    with pytest.raises(InvalidInput) as refused:
        read_experiments(tmp_path / "list.json", tmp_path / "stream.json")
    assert [error.at for error in refused.value.errors] == [
        f"{tmp_path / 'stream.json'}: document 1.id",
        f"{tmp_path / 'stream.json'}: document 2.id",
    ]


def test_what_show_prints_is_what_was_applied(tmp_path: Path) -> None:
    """Even for a running experiment, with a removed arm and a ramp."""
    made = experiment(arms=[{"name": name, "payload": {"n": i}} for i, name in enumerate("abc")])
    plain = record(made, status="running", revision=9)
    ramped = plain.with_standing(2, Standing(ramp=Ramp(0.1, "1h"), ramp_since_ms=5))
    for shown, arms in (
        (plain, "abc"),
        (ramped, "abc"),
        (ramped.with_standing(1, Standing("removed")), "ac"),
    ):
        for name, text in (
            ("one.json", msgspec.json.encode(experiment_view(shown))),
            ("list.json", msgspec.json.encode(ExperimentList([experiment_view(shown)]))),
            ("one.yaml", msgspec.yaml.encode(experiment_view(shown))),
        ):
            (tmp_path / name).write_bytes(text)
            (applied,) = read_experiments(tmp_path / name)
            kept = tuple(arm for arm in made.arms if arm.name in arms)
            assert applied == msgspec.structs.replace(validated(made), arms=kept)


def test_a_draft_is_changed_whole_from_the_standard_input_after_a_look(data: Path) -> None:
    def apply(document: Any, *flags: str) -> Any:
        return bandit_serve("experiments", "apply", "-", *flags, "--data", data, stdin=document)

    assert results_of(apply(TOML, "--json")) == {"colour": "created"}
    other = {
        **TWO_ARMS,
        "arms": [{"name": "red", "payload": 1}, {"name": "green"}],
        "metrics": [{"name": "click", "kind": "count"}],
        "unit": "user",
    }
    looked = apply(
        YAML.replace("thompson", "softmax") + f"- {json.dumps({**other, 'id': 'new'})}", "--dry-run"
    )
    assert looked.status == 0
    assert 'colour: its policy would change\n  ~ policy.kind: "thompson" → "softmax"\n' in looked.out
    assert "new: would be created, as a draft\n" in looked.out
    assert '  + arms.green: {"name":"green"}\n' in looked.out
    looked = apply(json.dumps(other), "--dry-run", "--json").document["experiments"]
    assert [(each["id"], each["result"], each["revision"]) for each in looked] == [
        ("colour", "draft changed", 1)
    ]
    changes = {each["at"]: (each["before"], each["after"]) for each in looked[0]["changes"]}
    assert changes == {
        "unit": ("request", "user"),
        "arms.red.payload": (None, 1),
        "arms.blue": ({"name": "blue", "payload": {"hex": "#00f"}}, None),
        "arms.green": (None, {"name": "green"}),
        "metrics.click.kind": ("binary", "count"),
        "metrics.spent": (
            {"name": "spent", "kind": "continuous", "goal": "maximize", "role": "secondary"},
            None,
        ),
    }
    listed = bandit_serve("experiments", "list", "--json", "--data", data).document["experiments"]
    assert [(each["id"], each["revision"]) for each in listed] == [("colour", 1)], "a look changes nothing"
    assert results_of(apply(json.dumps(other), "--json")) == {"colour": "draft changed"}
    shown = bandit_serve("experiments", "show", "colour", "--json", "--data", data)
    assert (shown.document["unit"], shown.document["revision"]) == ("user", 2)
    assert results_of(apply(shown.out, "--json")) == {"colour": "unchanged"}
    assert bandit_serve("experiments", "delete", "colour", "--data", data).out == "colour is deleted.\n"
    assert bandit_serve("experiments", "show", "colour", "--data", data).status == 1
    assert results_of(apply(shown.out, "--json")) == {"colour": "created"}


def test_a_wrong_file_fails_with_every_field(data: Path, tmp_path: Path) -> None:
    arms = [{"name": "a", "model": "m", "version": "v1"}, {"name": "b", "model": "n", "version": "v1"}]
    file = written(tmp_path / "e.json", {**TWO_ARMS, "arms": arms})
    refused = bandit_serve("experiments", "apply", file, "--data", data)
    assert (refused.status, refused.out) == (1, "")
    assert "colour.arms[0].version: There is no model 'm'" in refused.err
    assert "colour.arms[1].version: There is no model 'n'" in refused.err


def test_a_file_of_an_unknown_kind_is_wrong_usage(data: Path, tmp_path: Path) -> None:
    (tmp_path / "e.ini").write_text("")
    assert bandit_serve("experiments", "apply", tmp_path / "e.ini", "--data", data).status == 2


def test_from_draft_to_a_winner_that_is_promoted(data: Path, tmp_path: Path) -> None:
    where = ("--data", data)
    for version, ratings in (("v1", (1.0, 2.0)), ("v2", (3.0, 5.0))):
        model = save_model(tmp_path / f"{version}.safetensors", ratings)
        assert bandit_serve("models", "register", "m", model, "--version", version, *where).status == 0
    arms = [{"name": f"with-{version}", "model": "m", "version": version} for version in ("v1", "v2")]
    file = written(tmp_path / "e.json", {**TWO_ARMS, "arms": arms})
    assert bandit_serve("experiments", "apply", file, *where).status == 0

    assert "can not pause" in bandit_serve("experiments", "pause", "colour", *where).err
    assert bandit_serve("experiments", "start", "colour", *where).out == "colour is running.\n"
    assert bandit_serve("experiments", "pause", "colour", "--reason", "lunch", *where).status == 0
    assert bandit_serve("experiments", "start", "colour", *where).status == 0
    assert "winner" in bandit_serve("experiments", "stop", "colour", "--winner", "nobody", *where).err
    stopped = bandit_serve("experiments", "stop", "colour", "--winner", "with-v2", "--json", *where)
    assert (stopped.document["status"], stopped.document["winner"]) == ("stopped", "with-v2")
    assert bandit_serve("models", "show", "m", "--json", *where).document["production"] == "v2"
    again = bandit_serve("experiments", "start", "colour", *where)
    assert (again.status, "is stopped" in again.err) == (1, True)
    final = written(tmp_path / "e.json", {**TWO_ARMS, "arms": arms, "policy": {"kind": "fixed_split"}})
    assert "policy: is final" in bandit_serve("experiments", "apply", final, *where).err

    shown = bandit_serve("experiments", "show", "colour", *where).out
    assert "lunch" in shown
    assert "with-v1 (control)" in shown
    assert bandit_serve("experiments", "show", "nobody", *where).status == 1


def test_an_experiment_whose_model_can_not_be_loaded_does_not_start(data: Path, tmp_path: Path) -> None:
    where = ("--data", data)
    model = save_model(tmp_path / "m.safetensors")
    assert bandit_serve("models", "register", "m", model, *where).status == 0
    arms = [{"name": "a"}, {"name": "b", "model": "m", "version": "v1"}]
    file = written(tmp_path / "e.json", {**TWO_ARMS, "arms": arms})
    assert bandit_serve("experiments", "apply", file, *where).status == 0
    for artifact in (data / "artifacts").iterdir():
        artifact.unlink()
    assert bandit_serve("experiments", "start", "colour", *where).status == 1
    shown = bandit_serve("experiments", "show", "colour", "--json", *where).document
    assert shown["status"] == "draft"


def shown_by_watching(data: Path, service: ThrowawayService) -> list[int]:
    """Numbers of rewards in the two documents that `--watch` prints: of what was there, and of one more."""
    command = [sys.executable, "-m", "bandit_serve", "experiments", "results", "colour", "--watch", "--json"]
    shown: list[int] = []
    with subprocess.Popen(
        [*command, "--data", str(data)], stdout=subprocess.PIPE, text=True, env=clean_environment()
    ) as watching:
        assert watching.stdout is not None
        text = ""
        for line in watching.stdout:
            text += line
            if line.rstrip() == "}":
                arms, text = json.loads(text)["arms"], ""
                shown.append(sum(arm["metrics"]["click"]["n"] for arm in arms))
                if len(shown) == 2:
                    watching.send_signal(signal.SIGINT)
                    break
                decided = service.call("POST", "/v1/experiments/colour/decide", {}).body
                reward = {"decision_id": decided["decision_id"], "value": 1.0}
                assert service.call("POST", "/v1/rewards", reward).status == 200
        assert watching.wait(30) in (0, 130, -signal.SIGINT)
    return shown


@contextmanager
def rewarded(data: Path, file: Path) -> Iterator[ThrowawayService]:
    """A service whose experiment has made 60 decisions, each with a reward."""
    with ThrowawayService(data, workers=2) as service:
        assert bandit_serve("experiments", "apply", file, "--data", data).status == 0
        assert bandit_serve("experiments", "start", "colour", "--data", data).status == 0
        for i in range(60):
            decided = service.call("POST", "/v1/experiments/colour/decide", {})
            assert decided.status == 200, decided.body
            reward = {"decision_id": decided.body["decision_id"], "value": float(i % 3 == 0)}
            assert service.call("POST", "/v1/rewards", reward).status == 200
        results = "/v1/experiments/colour/results"
        # Exposures come behind their rewards by a flush.
        wait_until(lambda: sum(arm["exposures"] for arm in service.call("GET", results).body["arms"]) == 60)
        yield service


def test_results_are_those_of_the_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with rewarded(data, written(tmp_path / "e.json", TWO_ARMS)) as service:
        here = bandit_serve("experiments", "results", "colour", "--json", "--data", data).document
        there = service.call("GET", "/v1/experiments/colour/results").body
        table = bandit_serve("experiments", "results", "colour", "--data", data)
    assert sum(arm["metrics"]["click"]["n"] for arm in here["arms"]) == 60
    for answer in (here, there):
        del answer["as_of"]
        for arm in answer["arms"]:
            del arm["exposures"]
    assert here == there
    assert table.status == 0
    for words in ("red", "blue", "P(best)", "control", "Sample ratio: "):
        assert words in table.out


def test_results_over_time_are_those_of_the_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with rewarded(data, written(tmp_path / "e.json", TWO_ARMS)) as service:
        past = bandit_serve("experiments", "results", "colour", "--over-time", "--data", data)
        points = bandit_serve("experiments", "results", "colour", "--over-time", "--json", "--data", data)
        history = service.call("GET", "/v1/experiments/colour/results/history").body
    assert points.document == history
    assert sum(arm["metrics"]["click"]["n"][-1] for arm in history["arms"].values()) == 60
    assert past.status == 0
    for words in ("red", "blue to red on click", "█", "To control", "Bars of shares"):
        assert words in past.out


def test_watching_shows_each_change(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with rewarded(data, written(tmp_path / "e.json", TWO_ARMS)) as service:
        assert shown_by_watching(data, service) == [60, 61]


def test_an_experiment_is_explained_and_drawn(tmp_path: Path) -> None:
    data, html, png = (tmp_path / name for name in ("data", "report.html", "report.png"))
    with rewarded(data, written(tmp_path / "e.json", TWO_ARMS)):
        explained = bandit_serve("experiments", "explain", "colour", "--data", data)
        drawn = bandit_serve("experiments", "results", "colour", "--html", html, "--data", data)
        pictured = bandit_serve("experiments", "results", "colour", "--png", png, "--data", data)
    assert explained.status == 0
    for words in ("What happened", "colour is running. It decided 60 times", "What would decide it"):
        assert words in explained.out
    assert drawn.status == 0
    assert "<h1>colour</h1>" in html.read_text()
    assert (pictured.status, png.exists()) == ((0, True) if find_spec("resvg_py") else (2, False))
    assert pictured.status == 0 or "pip install 'bandit-serve[png]'" in pictured.err

"""Files that are nested too deep, in each language: a sentence that names the place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import bandit_serve
from services import ThrowawayService

from bandit_serve.base.nesting import MAX_LEVELS, TOO_DEEP
from bandit_serve.cli.described import read_documents
from bandit_serve.cli.reward_rows import RewardFile
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.settings import load_settings
from bandit_serve.simulation.contender import Contender

LEVELS = (MAX_LEVELS - 2, MAX_LEVELS - 1, MAX_LEVELS, MAX_LEVELS + 1, 250, 600, 3_000)
"""Of what is one level down in its document."""
FORMS: dict[str, Callable[[int], str]] = {
    "lists.json": lambda n: '{"arms": ' + "[" * n + "]" * n + "}",
    "objects.json": lambda n: '{"arms": ' + '{"not": ' * n + "1" + "}" * n + "}",
    "lists.yaml": lambda n: "arms: " + "[" * n + "]" * n,
    "objects.yml": lambda n: "arms: " + "{a: " * n + "1" + "}" * n,
    "keys.toml": lambda n: "arms" + ".a" * n + " = 1",
    "lists.toml": lambda n: "arms = " + "[" * n + "]" * n,
}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_read_up_to_a_depth(form: str, levels: int, tmp_path: Path) -> None:
    file = tmp_path / form
    file.write_text(FORMS[form](levels))
    if levels < MAX_LEVELS:
        assert len(read_documents(file)) == 1
        return
    with pytest.raises(InvalidInput, match="is nested too deep") as refused:
        read_documents(file)
    (error,) = refused.value.errors
    assert error.detail == TOO_DEEP
    assert error.at.startswith("arms") or (levels > MAX_LEVELS + 1 and not form.endswith("json"))


@pytest.mark.parametrize("form", FORMS)
def test_a_command_says_so_in_a_line(form: str, tmp_path: Path) -> None:
    file = tmp_path / form
    for levels in (MAX_LEVELS, 3_000):
        file.write_text(FORMS[form](levels))
        for asked in (
            ("experiments", "apply", file, "--data", tmp_path / "d"),
            ("simulate", file),
            ("train", "--config", file),
        ):
            ran = bandit_serve(*asked)
            assert ran.status in (1, 2)
            assert f"The file {file} is nested too deep" in ran.err
            assert len(ran.err.splitlines()) == 1


def test_what_is_within_itself_is_too_deep(tmp_path: Path) -> None:
    file = tmp_path / "endless.yaml"
    for text in ("a: &a [*a]\nid: j\n", "&a {b: {c: *a}}", "- &a\n  - *a\n  - *a\n"):
        file.write_text(text)
        ran = bandit_serve("experiments", "apply", file, "--data", tmp_path / "d")
        assert ran.status == 1
        assert f"The file {file} is nested too deep at " in ran.err


def test_an_alias_that_is_used_twice_is_read(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text("a: &a [x]\nb: [*a, *a]\n")
    assert read_documents(file) == [{"a": ["x"], "b": [["x"], ["x"]]}]


@pytest.mark.parametrize("levels", [MAX_LEVELS, 3_000])
def test_the_standard_input_is_no_deeper(levels: int, tmp_path: Path) -> None:
    where = ("--data", tmp_path / "d")
    ran = bandit_serve("experiments", "apply", "-", *where, stdin=FORMS["lists.json"](levels))
    assert (ran.status, ran.out) == (1, "")
    assert "The standard input is nested too deep at arms[0][0]" in ran.err


@pytest.mark.parametrize("levels", [MAX_LEVELS, 600, 3_000])
def test_settings_rewards_and_arguments_are_no_deeper(levels: int, tmp_path: Path) -> None:
    config, rewards = tmp_path / "config.toml", tmp_path / "rewards.jsonl"
    for text in (f"store{'.a' * levels} = 1", f"log_format = {'[' * (levels + 1)}{']' * (levels + 1)}"):
        config.write_text(text)
        with pytest.raises(UsageError, match="is nested too deep"):
            load_settings({}, config=str(config), environ={})
    for policy in (f"thompson:prior{'.a' * levels}=1", f"thompson:prior={'[' * levels}{']' * levels}"):
        with pytest.raises(InvalidInput, match="is nested too deep"):
            Contender.parse(policy)
    deep = '{"decision_id": ' + "[" * levels + "]" * levels + ', "value": 1}'
    rewards.write_text("\n".join([deep, json.dumps({"decision_id": "d", "value": 1})]))
    first, second = RewardFile(rewards, {}).rows()
    assert first == (1, TOO_DEEP)
    assert not isinstance(second[1], str)


def test_json_in_an_argument_is_no_deeper(service: ThrowawayService) -> None:
    deep = "[" * (MAX_LEVELS + 1)
    for asked in (("add-arm", "e", "a", "--payload", deep), ("add-metric", "e", deep)):
        ran = bandit_serve("experiments", *asked, "--data", service.data)
        assert (ran.status, ran.err) == (2, f"error: The JSON is nested too deep: {TOO_DEEP}.\n")

"""One declaration a setting: flags, variables, config keys, `--help` and the documents' table come from it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from services import clean_environment

from bandit_serve.cli.doctor import doctor
from bandit_serve.cli.serve import serve
from bandit_serve.cli.settings_table import PLACE, settings_table, with_settings_table
from bandit_serve.settings import Settings, declared_settings

DECLARED = declared_settings()
DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
# The line that adds a setting, and the program as it would be with it.
TOY = '    toys: Annotated[int, Meta(ge=1, le=9), about("Toys to take along")] = 3'
WITH_TOY = f"""
import sys
from typing import Annotated
from msgspec import Meta
from bandit_serve import settings
from bandit_serve.settings import about

class Settings(settings.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
{TOY}

settings.Settings = Settings
if sys.argv[1:] == ["table"]:
    from bandit_serve.cli.settings_table import settings_table
    print(settings_table())
else:
    from bandit_serve.cli import main
    main()
"""


def run_with_toy(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITH_TOY, *arguments],
        env={**clean_environment(), "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_setting_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("toys = 10\n")
    for run in (
        run_with_toy("serve", "--toys", "10"),
        run_with_toy("serve", BANDIT_SERVE_TOYS="10"),
        run_with_toy("serve", "--config", str(config)),
    ):
        assert run.returncode == 2, run.stderr
        assert "The setting toys is wrong: Expected `int` <= 9" in run.stderr
        assert "(--toys, BANDIT_SERVE_TOYS or toys in the config file)" in run.stderr
    assert re.search(
        r"--toys +<int> +Toys to take along \(default: 3\)\. 1 to 9\.", run_with_toy("serve", "--help").stdout
    )
    assert "| `toys` | `3` | number, 1 to 9 | Toys to take along |\n" in run_with_toy("table").stdout


def test_the_documents_have_the_table_as_it_is() -> None:
    document = DOCUMENT.read_text()
    assert PLACE.findall(document) == [settings_table()], (
        "run python -m bandit_serve.cli.settings_table docs/settings.md"
    )
    assert with_settings_table(document) == document


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_says_what_it_is(name: str) -> None:
    setting = DECLARED[name]
    assert re.fullmatch(r"[A-Z`].*[^.]", setting.help)
    if setting.kind is int:
        assert re.fullmatch(r"\d+ to \d+|at least \d+", setting.range), "a number has bounds, and says them"
    (row,) = [line for line in settings_table().splitlines() if line.startswith(f"| `{name}` |")]
    assert setting.range in row
    assert row.count("|") == 5


def test_ranges_are_those_that_are_checked() -> None:
    assert DECLARED["port"].range == "0 to 65535"
    assert DECLARED["max_body"].range == "at least 1024"
    assert DECLARED["max_body"].unit == "bytes"
    assert DECLARED["log_level"].choices == ("debug", "info", "warning", "error")
    assert DECLARED["allowed_hosts"].kind is str
    assert {name for name in DECLARED if DECLARED[name].unit == "duration"} == {
        name for name in DECLARED if re.fullmatch(r"\d+[smhd]", str(DECLARED[name].default))
    }


def test_commands_that_take_a_setting_take_it_alike() -> None:
    of_serve, of_doctor = (inspect.get_annotations(command, eval_str=True) for command in (serve, doctor))
    shared = of_serve.keys() & of_doctor.keys()
    assert {"host", "store", "max_artifact", "config"} <= shared
    for name in shared:
        one, other = (options[name].__metadata__[0] for options in (of_serve, of_doctor))
        assert (one.help, one.metavar, one.param_decls) == (other.help, other.metavar, other.param_decls)

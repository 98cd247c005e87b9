"""Usage of the command line: exit statuses, errors for people, settings from every source."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import bandit_serve
from services import clean_environment
from stores import ThrowawayStore, wait_until

import bandit_serve as package
from bandit_serve.cli.main import COMMANDS
from bandit_serve.settings import Settings


def test_version() -> None:
    ran = bandit_serve("--version")
    assert (ran.status, ran.out) == (0, f"bandit-serve {package.__version__}\n")


def test_an_unknown_command_gets_a_suggestion() -> None:
    ran = bandit_serve("experimants")
    assert ran.status == 2
    assert "Did you mean 'experiments'?" in ran.err


def test_help_lists_all_commands_and_what_is_taken_where_nothing_is_said() -> None:
    listed = bandit_serve("--help").out
    for name in COMMANDS:
        assert f" {name} " in listed
    words = " ".join(bandit_serve("serve", "--help").out.replace("│", " ").split())
    assert "the private store (default: bandit-serve-data)." in words
    assert "Prefix of all keys in the store (default: bandit_serve)." in words


@pytest.mark.parametrize(
    ("imported", "needless"),
    [
        ("cli.main", "bandit_serve.server"),
        ("cli.main", "numpy"),
        ("cli.demo", "aiohttp"),
    ],
)
def test_nothing_is_imported_that_is_not_needed(imported: str, needless: str) -> None:
    code = f"import sys, bandit_serve.{imported}; sys.exit({needless!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["\udcff"],
        ["experiments", "start", "x", "--reason", "oui\udce9"],
        ["plan", "--plot", "\udcff.svg"],
        ["experiments", "apply", "\udcff.json"],
    ],
)
def test_bytes_that_are_no_text_are_refused(arguments: list[str]) -> None:
    ran = bandit_serve(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert "is not UTF-8" in ran.err
    assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["experiments list", "replay", "doctor", "repair x"])
def test_an_error_of_a_file_is_a_sentence(command: str) -> None:
    name = "x" * 300
    ran = bandit_serve(*command.split(), "--data", name)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error: The file ")
    assert name in ran.err
    assert ran.err.endswith(" can not be used: File name too long.\n")


def test_a_wrong_setting_is_named_with_its_spellings(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('store_timeout = "soon"\n')
    for finished in (
        bandit_serve("models", "list", "--store-timeout", "soon"),
        bandit_serve("models", "list", environment={"BANDIT_SERVE_STORE_TIMEOUT": "soon"}),
        bandit_serve("models", "list", "--config", config),
    ):
        assert finished.status == 2
        assert "store_timeout is wrong: Expected a duration" in finished.err
        assert "--store-timeout, BANDIT_SERVE_STORE_TIMEOUT or store_timeout" in finished.err


def test_a_config_key_that_is_no_setting_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("prot = 1\n")
    ran = bandit_serve("models", "list", "--config", config)
    assert ran.status == 2
    assert "prot" in ran.err


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.toml"
    for command in (("experiments", "apply", missing), ("models", "register", "m", missing)):
        ran = bandit_serve(*command, "--data", tmp_path)
        assert ran.status == 2
        assert "does not exist" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_settings_come_from_variables_and_config_keys(tmp_path: Path, store: ThrowawayStore) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'store = "{store.url}"\nnamespace = "other"\n')
    data = {"BANDIT_SERVE_DATA": str(tmp_path / "data")}
    with_config = bandit_serve("models", "list", "--config", config, environment=data)
    with_variables = bandit_serve(
        "models",
        "list",
        environment={**data, "BANDIT_SERVE_STORE": store.url, "BANDIT_SERVE_NAMESPACE": "third"},
    )
    assert store.url in with_config.out
    assert "namespace other" in with_config.out
    assert "namespace third" in with_variables.out


def test_a_store_that_is_away_fails_with_one_sentence(tmp_path: Path) -> None:
    ran = bandit_serve("models", "list", "--store", "unix:///nowhere/store.sock", "--data", tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error: The store is not available now")
    assert ran.err.count("\n") == 1


def test_a_store_that_may_evict_is_refused(tmp_path: Path) -> None:
    with ThrowawayStore(maxmemory_policy="allkeys-lru") as store:
        ran = bandit_serve("experiments", "list", "--store", store.url, "--data", tmp_path)
    assert ran.status == 1
    assert "maxmemory-policy" in ran.err


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bandit_serve", "doctor", "--json", "--data", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment()
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 1


def test_ctrl_c_leaves_quietly(tmp_path: Path) -> None:
    with ThrowawayStore() as store:
        store.pause()
        command = [sys.executable, "-m", "bandit_serve", "models", "list", "--store", store.url]
        process = subprocess.Popen(
            [*command, "--store-timeout", "50s", "--data", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        wait_until(lambda: _waits(process.pid))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=45)
        store.resume()
    assert (process.returncode, out, err) == (130, "", "")


def _waits(pid: int) -> bool:
    """Whether the process waits for the store: its loop has two sockets of its own, and the third is the store's."""
    sockets = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            sockets += "socket" in str(fd.readlink())
    return sockets >= 3


def test_the_settings_are_shown_with_where_they_came_from_and_without_passwords(tmp_path: Path) -> None:
    secret = tmp_path / "store"
    secret.write_text("redis://user:hunter22@box:6379/0\n")
    config = tmp_path / "config.toml"
    config.write_text("workers = 3\n")
    environment = {"BANDIT_SERVE_STORE_FILE": str(secret), "BANDIT_SERVE_ACCESS_LOG": "true"}
    flags = ("--port", "9001", "--config", config)
    ran = bandit_serve("config", "show", *flags, "--json", environment=environment)
    shown = {each["name"]: (each["value"], each["source"]) for each in ran.document["settings"]}
    assert shown["port"] == (9001, "--port")
    assert shown["workers"] == (3, str(config))
    assert shown["store"] == ("redis://box:6379/0", "BANDIT_SERVE_STORE_FILE")
    assert shown["access_log"] == (True, "BANDIT_SERVE_ACCESS_LOG")
    assert shown["artifacts"] == (None, "default")
    assert set(shown) == set(Settings.__struct_fields__)
    table = bandit_serve("config", "show", *flags, environment=environment)
    for words in ("redis://box:6379/0", "the data directory", f"Config file: {config}."):
        assert words in table.out.replace("\n", "")
    assert "hunter22" not in ran.out + ran.err + table.out + table.err

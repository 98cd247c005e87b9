"""Control characters in stored texts: no command sends them to a terminal or a pipe."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import save_model
from http_calls import upload
from hypothesis import given
from hypothesis import strategies as st
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.base.printable_text import printable, printable_json, printable_line
from bandit_serve.base.process_log import LineFormatter

CLIPBOARD = "\x1b]52;c;Y3VybCBldmls\x07"
HOSTILE = (
    f"a{CLIPBOARD}b\x9b31mc\x90q\x9c\x1b[2J\rover\x08\x7f\u202edrow\u2066x\u2069\u200f\u2028y\x00"
    "[link=http://evil]z[/link][bold]"
)
# What rich sends for colours, and for displays that are drawn anew; the only sequences that a terminal is to get.
OURS = re.compile(r"\x1b\[(?:[0-9;]*m|2K|1A|\?25[lh])|\r(?=\x1b\[|\n|$)")
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ThrowawayService, Path]]:
    """A service whose state has hostile texts wherever one is taken, and a folder with hostile files."""
    data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("files")
    with ThrowawayService(data, "--access-log") as service:
        artifact = save_model(folder / "model").read_bytes()
        for version in ("v1", "v2"):
            about = {"version": version, "metadata": {"note": HOSTILE, HOSTILE: 1}, "metrics": {HOSTILE: 1.0}}
            made = upload(service, "m", artifact, about)
            assert made.status == 201, made
        for version, status in (("v1", "production"), ("v2", "shadow"), ("v2", "staged")):
            path = f"/v1/models/m/versions/{version}/status"
            assert service.call("POST", path, {"status": status, "reason": HOSTILE}).status == 200
        experiment = {
            "id": "e",
            "arms": [{"name": "a", "payload": HOSTILE}, {"name": "b", "payload": {HOSTILE: [HOSTILE]}}],
            "context": [{"name": "c", "kind": "categorical", "values": [HOSTILE, "other"]}],
            "metrics": [{"name": "click", "kind": "binary"}],
            "policy": {"kind": "lin_ts"},
            "attribution": {"missing": "ignore"},
        }
        assert service.call("POST", "/v1/experiments", experiment).status == 201
        for change in ("start", "pause", "start"):
            assert service.call("POST", f"/v1/experiments/e/{change}", {"reason": HOSTILE}).status == 200
        changed = {**experiment, "arms": [{"name": "a", "payload": "x"}, {"name": "b"}]}
        (folder / "changed.json").write_text(json.dumps(changed))
        (folder / "wrong.json").write_text(json.dumps({**experiment, HOSTILE: 1, "id": HOSTILE}))
        (folder / "ratings.csv").write_text(f"userId,movieId,rating\n1,2,{HOSTILE}\n")
        (folder / "broken.toml").write_text(f'a = "{HOSTILE}')
        (folder / "config.toml").write_text(f'log_level = "{json.dumps(HOSTILE)[1:-1]}"')
        (folder / "no-model").write_text(HOSTILE * 9)
        (folder / "simulation.json").write_text(json.dumps({HOSTILE: HOSTILE}))
        yield service, folder


COMMANDS = {
    "models list": "models list",
    "models show": "models show m",
    "version": "models show m v1",
    "versions": "models versions m",
    "compare": "models compare m v1 v2",
    "agreement": "models agreement m v2",
    "models status": "models status m v2 shadow",
    "prune": "models prune --dry-run",
    "register": "models register m FOLDER/no-model",
    "list": "experiments list",
    "show": "experiments show e",
    "results": "experiments results e",
    "apply": "experiments apply FOLDER/changed.json",
    "apply wrong": "experiments apply FOLDER/wrong.json",
    "apply broken": "experiments apply FOLDER/broken.toml",
    "replay": "replay",
    "doctor": "doctor",
    "train": "train --ratings FOLDER/ratings.csv",
    "demo": "demo --offline --ratings FOLDER/ratings.csv",
    "simulate": "simulate FOLDER/simulation.json",
    "config": "doctor --config FOLDER/config.toml",
    "learn": "learn m --status",
    "no such model": "models show HOSTILE",
    "no such command": "models HOSTILE",
    "no such option": "models list --HOSTILE",
    "wrong name": "models register HOSTILE FOLDER/model",
    "wrong reason": "experiments add-arm e c --payload HOSTILE",
}


# Of the full table, those in which most of what callers wrote is shown.
FEW = ("models show", "version", "show", "apply", "apply wrong", "config", "no such model")


def arguments(words: str, service: ThrowawayService, folder: Path) -> list[str]:
    # No process takes a null in its arguments.
    hostile = HOSTILE.replace("\x00", "")
    command = [word.replace("FOLDER", str(folder)).replace("HOSTILE", hostile) for word in words.split()]
    takes_data = command[0] not in ("simulate", "demo") and "no such" not in words
    return [*command, *(["--data", str(service.data)] if takes_data else [])]


def on_a_pipe(command: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bandit_serve", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=clean_environment(),
        timeout=LIMIT_S,
        check=False,
    )
    return done.stdout.decode()


def on_a_terminal(command: list[str]) -> str:
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**clean_environment(), "TERM": "xterm-256color", "COLUMNS": "100"}
        os.execve(sys.executable, [sys.executable, "-m", "bandit_serve", *command], environment)
    received = bytearray()
    try:
        while select.select([terminal], [], [], LIMIT_S)[0]:
            try:
                piece = os.read(terminal, 1 << 16)
            except OSError:  # its other end is closed
                break
            if not piece:
                break
            received += piece
        else:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the command did not end")
    finally:
        os.waitpid(pid, 0)
        os.close(terminal)
    # The terminal makes newlines of its own.
    return received.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("name", list(COMMANDS)[: scaled(0, len(COMMANDS))] or FEW)
def test_no_command_steers_a_terminal(hostile: tuple[ThrowawayService, Path], name: str) -> None:
    command = arguments(COMMANDS[name], *hostile)
    printed = on_a_terminal(command)
    assert printed.strip()
    assert STEERING.findall(OURS.sub("", printed)) == []


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_command_sends_escapes_into_a_pipe(hostile: tuple[ThrowawayService, Path], as_json: bool) -> None:
    """Commands that print texts from callers; on a terminal, all commands are checked."""
    shown = ""
    for words in ("models show m", "models show m v1", "experiments show e"):
        command = [*arguments(words, *hostile), *(["--json"] if as_json else [])]
        printed = on_a_pipe(command)
        assert STEERING.findall(printed) == [], words
        if as_json:
            shown += json.dumps(json.loads(printed), ensure_ascii=False)
        else:
            shown += printed
    if as_json:
        assert json.dumps(HOSTILE, ensure_ascii=False)[1:-1] in shown
    else:
        assert "\\x1b]52;c;Y3VybCBldmls\\x07" in "".join(shown.split())
        assert "[link=http://evil]z[/link][bold]" in "".join(shown.split())


def test_no_name_begins_a_line_of_its_own_in_the_log(hostile: tuple[ThrowawayService, Path]) -> None:
    service, _ = hostile
    forged = "2026-01-01 00:00:00,000 CRITICAL forged"
    service.call("GET", "/v1/models/last%0a%1b%5d52", headers={"User-Agent": "a\xc2\x9b31m" + forged})
    wait_until(lambda: any("\\x9b31m" in line for line in service.output))
    lines = list(service.output)
    assert STEERING.findall("".join(lines)) == []
    record = logging.LogRecord("n", logging.ERROR, "", 0, "told %s", (f"x\n{forged}{CLIPBOARD}",), None)
    try:
        raise ValueError(f"y\n{forged}\u2028{CLIPBOARD}")
    except ValueError:
        record.exc_info = sys.exc_info()
    text = LineFormatter("%(asctime)s %(levelname)s %(message)s").format(record)
    assert STEERING.findall(text) == []
    assert not any(line.startswith(forged) for line in text.split("\n"))
    assert "\n  " + forged in text


@given(text=st.text(st.characters(exclude_categories=[]), max_size=40))
def test_what_is_shown_has_no_control_and_json_means_the_same(text: str) -> None:
    assert STEERING.findall(printable(text)) == []
    assert "\n" not in printable_line(text)
    document = json.dumps({text: [text]}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    safe = printable_json(document)
    assert STEERING.findall(safe.decode()) == []
    assert json.loads(safe) == {text: [text]}


@pytest.mark.parametrize("where", ["a thread", "the main thread"])
def test_what_nobody_caught_is_a_record_and_steers_nothing(where: str) -> None:
    raising = f"def fail():\n raise ValueError({HOSTILE!r})\n"
    begun = {
        "a thread": "import threading\nt = threading.Thread(target=fail)\nt.start()\nt.join()\n",
        "the main thread": "fail()\n",
    }[where]
    program = f"from bandit_serve.base.process_log import log_to_stderr\nlog_to_stderr('w', 'info')\n{raising}{begun}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=LIMIT_S)
    printed = done.stderr.decode()
    first, *rest = printed.splitlines()
    assert re.fullmatch(
        r"\S+ \S+ CRITICAL w bandit_serve.base.process_log: ended by an unexpected error", first
    )
    assert all(line.startswith("  ") for line in rest)
    assert STEERING.findall(printed) == []

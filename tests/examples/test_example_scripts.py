"""Examples: each is short, runs as it is against a service, and prints what it was written to show."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from documents import ROOT
from services import ThrowawayService, clean_environment

EXAMPLES = ROOT / "examples"
MAX_LINES = 80


class Example(NamedTuple):
    """Script with the texts that it prints; `servers` are the options of the model servers that it asks.

    takes_data : whether it takes the data directory of the service.
    """

    script: str
    shows: tuple[str, ...]
    servers: tuple[tuple[str, ...], ...] = ()
    takes_data: bool = False


EXAMPLES_RUN = [
    Example("two_models.py", ("forest is better on right than tree",)),
    Example("onnx_models.py", ("regression is better on right than stump", "in production: v2")),
    Example(
        "upstreams.py",
        ("double: ", "triple: ", " ms", "liked"),
        (("--name", "double", "--factor", "2.0"), ("--name", "triple", "--factor", "3.0")),
    ),
    Example("contextual.py", ("after  100 visits", "coffee for ")),
    Example("revenue_by_unit.py", ("short is better on revenue than long",), takes_data=True),
]


class ModelServers:
    """Processes of `examples/model_server.py`; `addresses` by the names of their models."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, options: tuple[str, ...]) -> None:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "model_server.py"), "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        self._processes.append(process)
        assert process.stdout is not None
        self.addresses[options[1]] = process.stdout.readline().split()[-1]

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def model_servers() -> Iterator[ModelServers]:
    servers = ModelServers()
    yield servers
    servers.end()


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES_RUN, ids=lambda example: example.script)
def test_an_example_runs_as_it_is(example: Example, model_servers: ModelServers, tmp_path: Path) -> None:
    for options in example.servers:
        model_servers.start(options)
    addresses = model_servers.addresses
    flags = ("--upstreams", ",".join(addresses.values())) if addresses else ()
    given = [text for name, address in addresses.items() for text in (f"--{name}", address)]
    data = tmp_path / "data"
    given += ["--data", str(data)] if example.takes_data else []
    with ThrowawayService(data, *flags) as service:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / example.script), "--url", service.url, *given],
            capture_output=True,
            text=True,
            timeout=100,
            cwd=tmp_path,
            env=clean_environment(),
        )
    assert done.returncode == 0, done.stderr
    assert [text for text in example.shows if text not in done.stdout] == [], done.stdout


def test_every_script_is_run_and_short() -> None:
    scripts = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert scripts == sorted(["model_server.py", *(example.script for example in EXAMPLES_RUN)])
    lengths = {name: len((EXAMPLES / name).read_text().splitlines()) for name in scripts}
    assert [name for name, lines in lengths.items() if lines >= MAX_LINES] == []

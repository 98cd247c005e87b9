"""Examples in the documents: each is run as it is written or, where that can not be, compared with the code."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest
import typer
import yaml
from documents import ROOT, Block, Document, every_document
from npm_packages import run_node
from services import ThrowawayService, clean_environment

from bandit_serve.cli.experiments_file import read_experiments
from bandit_serve.cli.main import COMMANDS
from bandit_serve.cli.named_policies import policies_in
from bandit_serve.cli.promotion_table import plan_in
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.notices.notice import NoticeBody
from bandit_serve.settings import Settings, load_settings
from bandit_serve.simulation import Simulation
from bandit_serve.training import read_plan

WRITTEN_ADDRESS = "127.0.0.1:8000"
LIMIT_S = 200.0


class Page(NamedTuple):
    """How the blocks of shell and Python of one page are tried.

    alone: the page has a service of its own, as it changes what others rely on. not_run: how those begin that would
    install, or run until they are ended. Their commands and flags are compared with those that there are. shows:
    what the others print.
    """

    needs_service: bool = False
    not_run: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    alone: bool = False


PAGES = {
    "README.md": Page(
        True,
        ("pip install '.[embedded]'", "pip install -e '.[test]'", "bandit-serve serve"),
        ('"accepted":1', '"duplicates":1', "Winner: none.", "forest is better on right than tree"),
    ),
    "CONTRIBUTING.md": Page(not_run=("git clone", "pip install '.[docs]'")),
    "docs/quick-start.md": Page(
        True,
        ("pip install '.[embedded]'", "bandit-serve serve"),
        ('"accepted":1', '"duplicates":1', '"production":"v2"', '"what":"stop"'),
    ),
    "docs/experiments.md": Page(
        True,
        # Tried in tests/scoring.
        ("bandit-serve score",),
        shows=("checkout: would be created", '"status":"paused"', '"kind":"top_two_thompson"', "is deleted"),
    ),
    "docs/stopping.md": Page(
        True,
        ("curl -sf -X POST http://127.0.0.1:8000/v1/experiments/checkout-flow/arms",),
        ("2099-03-02T09:00:00.000Z", "when there is a winner"),
    ),
    "docs/audience-and-layers.md": Page(
        True, shows=('"reason":"audience"', "delivery-date has 60 % of the layer checkout-page.")
    ),
    "docs/metrics.md": Page(
        True, shows=('"cap":500.0', "cart has the metric items", "Euros paid within a day", "as defined")
    ),
    "docs/rewards-by-event.md": Page(
        True, shows=('"verdicts":["accepted"]', '"verdicts":["corrected"]', '"verdicts":["retracted"]')
    ),
    "docs/rewards-by-unit.md": Page(
        True, shows=('"verdicts":["accepted"]', "4 rows into shop", '"accepted": 0', '"unmatched": 1')
    ),
    "docs/contextual.md": Page(True, shows=('"arm":',)),
    "docs/planning.md": Page(
        True, shows=("Plot: plan.svg", "14.0 days", '"cuped":{', "the first look is at 23,677 of 118,384")
    ),
    "docs/policies.md": Page(),
    "docs/results.md": Page(
        True,
        shows=(
            "Winner: none.",
            '"verdict":"insufficient"',
            '"regret_bound":',
            '"changes":[{"at":',
            "What would decide it",
        ),
    ),
    # What they print is tried in tests/export and tests/evaluation.
    "docs/export.md": Page(not_run=("bandit-serve export",)),
    "docs/evaluation.md": Page(not_run=("bandit-serve evaluate",), shows=("Estimate(", "[]")),
    "docs/segments.md": Page(True, shows=('"field":"device","declared":true', '"declared":false')),
    "docs/variance-reduction.md": Page(True, shows=('"units":3', '"arm":')),
    "docs/models.md": Page(
        True,
        # What is scored is tried in tests/scoring.
        (
            "pip install '.[train]'",
            "pip install '.[onnx]'",
            "bandit-serve score",
            "from dask.distributed import",
        ),
        ("solaris", '"production":"v1"', '"version":"v1","workers":[', '"probabilities":['),
    ),
    # Its services are started by test_upstreams_page.py, which runs what is not run here.
    "docs/upstreams.md": Page(
        not_run=("cat > model_server.py", "python model_server.py", "for version in"),
    ),
    "docs/learning.md": Page(not_run=("bandit-serve serve --learn",)),
    "docs/simulate.md": Page(shows=("thompson",)),
    "docs/client.md": Page(
        True,
        ("pip install ./clients/python", "npx openapi-typescript"),
        ("accepted", "409 The experiment 'greeting' is running"),
    ),
    "docs/http.md": Page(True, shows=("did you mean", '"at":"arms[0].nam"')),
    "docs/standards.md": Page(
        True,
        ("pip install openfeature-sdk",),
        ('"status":"running"', "0.5", "2 arms, 2 decisions"),
    ),
    "docs/keys.md": Page(
        True,
        ("bandit-serve serve",),
        (
            "ops",
            "with the scope serve",
            "A key is needed",
            '{"experiments":[',
            "is refused from now on.",
        ),
        alone=True,
    ),
    "docs/backup.md": Page(
        True,
        shows=(
            "It holds the keys that sign decisions",
            "1 log with 0 entries",
            "There is no experiment to replay.",
        ),
        alone=True,
    ),
    "docs/webhooks.md": Page(),
    # There is no store of that name here; test_manifests.py holds what the first prints.
    "docs/deploy.md": Page(
        not_run=(
            "bandit-serve keys create",
            "docker build",
            "bandit-serve deploy build",
            "bandit-serve deploy canary",
            "kubectl apply",
        )
    ),
    "docs/operations.md": Page(
        True,
        ("BANDIT_SERVE_STORE=", "bandit-serve repair"),
        ('"status":"ready"', "bandit_serve_requests_total"),
    ),
}
RUN = ("sh", "python")


def runnable(name: str) -> list[Block]:
    return [block for block in Document(name).blocks if block.language in RUN]


def is_run(block: Block, page: Page) -> bool:
    return not block.text.startswith(page.not_run or ("\0",))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `bandit-serve` and `python` of this checkout in its `bin`."""
    return furnished(tmp_path_factory.mktemp("documents"))


def furnished(directory: Path) -> Path:
    scripts = directory / "bin"
    scripts.mkdir()
    for name, arguments in (("python", ""), ("bandit-serve", "-m bandit_serve")):
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def address(workshop: Path) -> Iterator[str]:
    """Where a service answers whose data directory is where the documents say: one for all pages."""
    with serving(workshop) as where:
        yield where


@contextlib.contextmanager
def serving(workshop: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with ThrowawayService(workshop / "bandit-serve-data", port=port) as service:
        yield f"127.0.0.1:{service.port}"


def run(block: Block, directory: Path) -> str:
    """What the block printed."""
    environment = clean_environment()
    environment["PATH"] = os.pathsep.join([str(directory / "bin"), environment["PATH"]])
    command = (
        [sys.executable, "-c", block.text]
        if block.language == "python"
        else ["bash", "-euo", "pipefail", "-c", block.text]
    )
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAGES)
def test_the_examples_of_a_page_run_as_written(
    name: str, workshop: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = PAGES[name]
    blocks = [block for block in runnable(name) if is_run(block, page)]
    with contextlib.ExitStack() as services:
        if page.alone:
            workshop = furnished(tmp_path)
            address = services.enter_context(serving(workshop))
        else:
            address = request.getfixturevalue("address") if page.needs_service else WRITTEN_ADDRESS
        printed = "".join(
            run(block._replace(text=block.text.replace(WRITTEN_ADDRESS, address)), workshop)
            for block in blocks
        )
    assert [text for text in page.shows if text not in printed] == [], printed


@pytest.mark.timeout(400)
def test_the_examples_for_node_run_as_written(workshop: Path, address: str) -> None:
    """After those of the page for the shell, whose experiment they ask."""
    blocks = Document("docs/standards.md").blocks

    def adapted(block: Block) -> str:
        return (
            block.text.replace(WRITTEN_ADDRESS, address)
            .replace("banner'", "node'")
            .replace('banner"', 'node"')
        )

    made = next(block for block in blocks if block.language == "sh")
    run(made._replace(text=adapted(made).replace("/banner/", "/node/")), workshop)
    scripts = [adapted(block) for block in blocks if block.language == "js"]
    printed = [run_node("--input-type=module", "-e", script) for script in scripts]
    assert printed[0].strip() in ("control", "challenger")
    assert printed[1].strip() == "[ 'accepted' ]"
    assert len(printed) == 2


def test_every_page_with_examples_is_tried() -> None:
    assert {name for name in every_document() if runnable(name)} == set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_the_table_says_what_the_page_has(name: str) -> None:
    page, blocks = PAGES[name], runnable(name)
    for start in page.not_run:
        assert any(block.text.startswith(start) for block in blocks), start
    calls = any(WRITTEN_ADDRESS in block.text for block in blocks if is_run(block, page))
    assert page.needs_service or not calls


def as_experiments(text: str, directory: Path) -> None:
    file = directory / "experiment.toml"
    file.write_text(text)
    assert read_experiments(file)


def as_settings(text: str, directory: Path) -> None:
    file = directory / "settings.toml"
    file.write_text(text)
    assert load_settings({}, config=str(file), environ={}) != Settings()


def as_notice(text: str, directory: Path) -> None:
    notice = msgspec.json.decode(text, type=NoticeBody)
    assert (notice.event, notice.experiment) == ("winner", "checkout")
    assert msgspec.json.decode(notice.encoded()) == msgspec.json.decode(text)


def as_simulation(text: str, directory: Path) -> None:
    simulation = Simulation.of(tomllib.loads(text))
    assert [contender.name for contender in simulation.contenders] == ["thompson", "knows the base rate"]


def as_plan(text: str, directory: Path) -> None:
    plan = read_plan(msgspec.yaml.decode(text.encode()))
    assert plan.model == "films"
    assert (plan.gate("production") is None) == (plan.retrain is not None and plan.retrain.gated is not None)


def as_promotion_plan(text: str, directory: Path) -> None:
    file = directory / "promotion.toml"
    file.write_text(text)
    assert [each.step for each in plan_in(file).steps] == ["offline", "shadow", *["ramp"] * 4, "production"]


def as_metric(text: str, directory: Path) -> None:
    metrics = (Metric(name="first", kind="binary"), msgspec.json.decode(text, type=Metric))
    arms = (Arm("old"), Arm("new"))
    missing = Attribution(missing="zero")
    validated(Experiment(id="e", arms=arms, metrics=metrics, attribution=missing))


def as_policies(text: str, directory: Path) -> None:
    file = directory / "policies.toml"
    file.write_text(text)
    assert [spec.temperature for _, spec in policies_in(file)] == [0.02, 0.05, 0.1, 0.2]


def as_scrapes(text: str, folder: Path) -> None:
    """Jobs of Prometheus: the alerts are of one of their names."""
    jobs = [job["job_name"] for job in yaml.safe_load(text)["scrape_configs"]]
    rules = (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text()
    assert re.findall(r'job="([^"]+)"', rules) == jobs


DESCRIPTIONS: Mapping[tuple[str, str], Callable[[str, Path], None]] = {
    ("docs/experiments.md", "toml"): as_experiments,
    ("docs/metrics.md", "json"): as_metric,
    ("docs/keys.md", "toml"): as_settings,
    ("docs/operations.md", "toml"): as_settings,
    ("docs/settings.md", "toml"): as_settings,
    ("docs/webhooks.md", "toml"): as_settings,
    ("docs/webhooks.md", "json"): as_notice,
    ("docs/simulate.md", "toml"): as_simulation,
    ("docs/evaluation.md", "toml"): as_policies,
    ("docs/models.md", "yaml"): as_plan,
    ("docs/models.md", "toml"): as_promotion_plan,
    ("docs/deploy.md", "yaml"): as_scrapes,
}


def descriptions() -> list[tuple[str, Block]]:
    return [
        (name, block)
        for name in every_document()
        for block in Document(name).blocks
        if block.language in ("toml", "yaml", "json")
    ]


def test_every_description_is_one(tmp_path: Path) -> None:
    described = descriptions()
    assert {(name, block.language) for name, block in described} == set(DESCRIPTIONS)
    for name, block in described:
        DESCRIPTIONS[name, block.language](block.text, tmp_path)


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def commands() -> dict[str, click.Command]:
    """Each command by what is typed for it, subcommands too."""
    by_name: dict[str, click.Command] = {}
    for name, place in COMMANDS.items():
        module, _, attribute = place.partition(".")
        command = getattr(import_module(f"bandit_serve.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            group = typer.main.get_group(command)
            by_name |= {f"{name} {own}": each for own, each in group.commands.items()}
            by_name[name] = group
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(name)(command)
            by_name[name] = typer.main.get_command(alone)
    return by_name


def lines_typed() -> list[tuple[str, str]]:
    """Every `bandit-serve …` of the documents, in blocks and in the text."""
    typed = []
    for name in every_document():
        document = Document(name)
        shell = [block.text.replace("\\\n", " ") for block in document.blocks if block.language == "sh"]
        lines = [line for text in shell for line in text.splitlines()]
        typed += [
            (name, match[0])
            for line in (*lines, *document.inline_code)
            for match in re.finditer(r"(?<![\w/.-])bandit-serve [^;&|>]*", line)
        ]
    return typed


def test_commands_and_flags_are_those_that_there_are() -> None:
    known, typed = commands(), lines_typed()
    assert len(typed) > 40
    for name, line in typed:
        words = shlex.split(line, comments=True)[1:]
        if not words or not re.fullmatch(r"[a-z-]+", words[0]) or words[0] == "--version":
            continue
        command = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        assert command in known, f"{name}: {line}"
        assert len(words) == 1 or not isinstance(known[command], click.Group), f"{name}: {line}"
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert flags <= options_of(known[command]) | {"--help"}, f"{name}: {line}"


def test_flags_that_the_text_names_are_those_of_a_command() -> None:
    known = {option for command in commands().values() for option in options_of(command)} | {"--help"}
    named = {
        (name, flag)
        for name in every_document()
        if name in ("README.md", "CHANGELOG.md") or name.startswith("docs/")
        for code in Document(name).inline_code
        if code.startswith("--")
        for flag in re.findall(r"(?<!\S)--[a-z-]+", code)
    }
    assert len(named) > 30
    assert {each for each in named if each[1] not in known} == set()


def test_extras_that_are_installed_are_those_that_there_are() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [
        extra for name in every_document() for extra in re.findall(r"'\.\[(\w+)\]'", Document(name).text)
    ]
    assert set(named) <= set(extras)
    assert len(named) > 5


def test_scripts_that_are_named_are_there() -> None:
    typed = [
        (name, script)
        for name in every_document()
        for script in re.findall(
            r"python (?:-m pytest )?((?:benchmarks|docs|tests)/\S+\.py)", Document(name).text
        )
    ]
    assert len(typed) > 10
    assert [each for each in typed if not (ROOT / each[1]).exists()] == []


@pytest.mark.parametrize(
    "script", sorted((ROOT / "docs" / "pictures").glob("*.py")), ids=lambda path: path.stem
)
def test_what_pictures_are_made_with_is_there(script: Path) -> None:
    made = runpy.run_path(str(script), run_name="picture")
    assert callable(made["main"])
    if script.stem == "regret":
        assert made["picture"](made["DESCRIPTION"] | {"horizon": 100, "seeds": 2}).endswith("</svg>\n")
    pictures = [each for end in ("svg", "png") for each in script.parent.glob(f"{script.stem}*.{end}")]
    assert pictures
    assert all(picture.stat().st_size < 300_000 for picture in pictures)

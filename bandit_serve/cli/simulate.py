"""Command `bandit-serve simulate`: the regret of policies in simulated environments."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from bandit_serve.cli.command import AsJson
from bandit_serve.cli.described import read_described
from bandit_serve.cli.number_options import number_option
from bandit_serve.cli.output import print_json
from bandit_serve.cli.output_file import output_file
from bandit_serve.cli.simulate_progress import SimulationProgress
from bandit_serve.cli.simulate_table import print_report
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.pictures.picture import find_browser, save_picture
from bandit_serve.simulation.description import ENVIRONMENTS, HORIZON, SEEDS, Simulation
from bandit_serve.simulation.plot.page import page, picture_page
from bandit_serve.simulation.report import simulation_report
from bandit_serve.simulation.trials import run_trials

EXAMPLE_ARMS = "0.1,0.08,0.06,0.05,0.05"
WORLD, MODIFIERS, OUTPUT = "What is simulated", "Changes and delays", "How, and what comes of it"


def simulate(
    file: Annotated[
        Path | None,
        typer.Argument(help="The simulation as a file (TOML, JSON or YAML).", show_default=False),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "-e",
            help=f"{', '.join(ENVIRONMENTS)} (default: what the other flags belong to, or bernoulli).",
            rich_help_panel=WORLD,
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help=f"Means of the arms (default: {EXAMPLE_ARMS}); with context, how many there are [10].",
            rich_help_panel=WORLD,
        ),
    ] = None,
    sd: Annotated[
        float | None,
        number_option("gaussian: standard deviation of a reward (default: 1).", rich_help_panel=WORLD),
    ] = None,
    features: Annotated[
        int | None,
        typer.Option(help="linear, logistic: length of a context (default: 16).", rich_help_panel=WORLD),
    ] = None,
    signal: Annotated[
        float | None,
        number_option("linear, logistic: standard deviation of a score (default: 1).", rich_help_panel=WORLD),
    ] = None,
    noise: Annotated[
        float | None,
        number_option("linear: standard deviation of the noise (default: 0.5).", rich_help_panel=WORLD),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(help="supervised: a CSV file with a header, a row a visitor.", rich_help_panel=WORLD),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="supervised: the CSV's column to predict.", rich_help_panel=WORLD)
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="supervised: a data set of scikit-learn, such as digits.", rich_help_panel=WORLD),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help="kind or kind:parameter=value,…; once for each (default: all that fit).",
            rich_help_panel=WORLD,
        ),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            help="AT:MEANS, what the arms' means become at decision AT; with context AT alone.",
            rich_help_panel=MODIFIERS,
        ),
    ] = None,
    drift: Annotated[
        float | None,
        number_option(
            "How far each mean or coefficient wanders in 1,000 decisions.", rich_help_panel=MODIFIERS
        ),
    ] = None,
    delay: Annotated[
        str | None,
        typer.Option(
            help="Mean delay of rewards in decisions, one or one for each arm, as 200 or geometric:200,4000.",
            rich_help_panel=MODIFIERS,
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="How many decisions a reward may take (default: 5 × the mean delay).",
            rich_help_panel=MODIFIERS,
        ),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(
            help="zero or ignore: what a missing reward is (default: zero).", rich_help_panel=MODIFIERS
        ),
    ] = None,
    lost: Annotated[
        float | None,
        number_option("Share of rewards that never come (default: 0).", rich_help_panel=MODIFIERS),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            help=f"Decisions of a run (default: {HORIZON}, or the data set once).", rich_help_panel=OUTPUT
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help=f"Runs of each policy (default: {SEEDS}).", rich_help_panel=OUTPUT)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes other runs (default: 0).", rich_help_panel=OUTPUT)
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="Processes (default: one a processor).", rich_help_panel=OUTPUT),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the plot as an HTML page.", rich_help_panel=OUTPUT)
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Write the plot as a picture; needs Chromium.", rich_help_panel=OUTPUT),
    ] = None,
    axis: Annotated[
        Literal["linear", "log"], typer.Option(help="Scale of the plot's decisions.", rich_help_panel=OUTPUT)
    ] = "linear",
    theme: Annotated[
        Literal["light", "dark"], typer.Option(help="Of the picture.", rich_help_panel=OUTPUT)
    ] = "light",
    as_json: AsJson = False,
) -> None:
    """Runs policies in a world that is known, many times, and says what each loses against the best arm.

    The policies are the objects that serve traffic, with the floor under each arm's share that they are served with
    (min_share, 0.02 or 0.1 / arms), asked and told one decision after another.

    bandit-serve simulate --arms 0.05,0.04,0.04 -p thompson -p epsilon_greedy:epsilon=0.1 --plot regret.html
    """
    world = {
        "arms": arms,
        "sd": sd,
        "features": features,
        "signal": signal,
        "noise": noise,
        "csv": csv,
        "label": label,
        "dataset": dataset,
        "changes": change or None,
        "drift": drift,
    }
    lateness = {"delay": delay, "window": window, "missing": missing, "lost": lost}
    try:
        document = (
            _from_flags(environment, _given(world), _given(lateness))
            if file is None
            else _from_file(file, _given({"environment": environment, **world, **lateness}))
        )
        document |= _given({"horizon": horizon, "seeds": seeds, "seed": seed})
        if policy:
            document["policies"] = policy
        simulation = Simulation.of(document)
    except InvalidInput as error:
        raise error if isinstance(error, UsageError) else UsageError(str(error), error.errors) from None
    _check_pictures(plot, png)
    with output_file(plot) as html, output_file(png) as picture:
        with SimulationProgress(simulation, quiet=as_json) as progress:
            trials = run_trials(simulation, jobs, progress.on_trial)
            elapsed_s = progress.elapsed_s
        report = simulation_report(simulation, trials)
        if html is not None:
            html.write(page(report, axis))
        if picture is not None:
            picture.write(_picture(picture_page(report, axis, theme)))
    if as_json:
        print_json(report)
    else:
        print_report(report, elapsed_s, [path for path in (plot, png) if path is not None])


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _from_file(file: Path, flags: dict[str, Any]) -> dict[str, Any]:
    if flags:
        name = next(iter(flags)).replace("changes", "change")
        raise UsageError(f"{file} describes the simulation: --{name} does not go with it.")
    document = read_described(file)
    if not isinstance(document, dict):
        raise UsageError(f"The file {file} must have an environment.")
    if isinstance(document.get("environment"), dict) and isinstance(document["environment"].get("csv"), str):
        # A CSV is named from where the file is that names it.
        csv = str(file.parent / document["environment"]["csv"])
        document = {**document, "environment": {**document["environment"], "csv": csv}}
    return document


def _from_flags(kind: str | None, world: dict[str, Any], lateness: dict[str, Any]) -> dict[str, Any]:
    if kind is None:
        kind = _kind_of(world)
    in_context = kind in ("linear", "logistic")
    described = {"kind": kind, **world}
    if "arms" in world:
        described["arms"] = (
            _whole("--arms", world["arms"]) if in_context else _numbers("--arms", world["arms"])
        )
    elif kind not in ("linear", "logistic", "supervised"):
        described["arms"] = _numbers("--arms", EXAMPLE_ARMS)
    if "changes" in world:
        described["changes"] = [_change(text, in_context) for text in world["changes"]]
    document: dict[str, Any] = {"environment": described}
    if lateness:
        document["delay"] = _delay(lateness)
    return document


def _kind_of(world: dict[str, Any]) -> str:
    """Kind of environment that the given flags belong to."""
    for names, kind in (
        (("csv", "label", "dataset"), "supervised"),
        (("noise", "features", "signal"), "linear"),
        (("sd",), "gaussian"),
    ):
        if any(name in world for name in names):
            return kind
    return "bernoulli"


def _change(text: str, in_context: bool) -> Any:
    at, _, means = text.partition(":")
    if in_context:
        return _whole("--change", text)
    if not means:
        raise UsageError(
            f"--change must be like 5000:0.05,0.1, a decision and the means from it on, not {text!r}."
        )
    return {"at": _whole("--change", at), "arms": _numbers("--change", means)}


def _delay(flags: dict[str, Any]) -> dict[str, Any]:
    if "delay" not in flags:
        raise UsageError(f"--{next(iter(flags))} needs a --delay.")
    kind, colon, means = flags.pop("delay").rpartition(":")
    numbers = _numbers("--delay", means)
    return {**({"kind": kind} if colon else {}), "mean": numbers if len(numbers) > 1 else numbers[0], **flags}


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{flag} must be numbers with commas between them, like 0.05,0.04, not {text!r}."
        ) from None


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{flag} must be a whole number here, not {text!r}.") from None


def _check_pictures(plot: Path | None, png: Path | None) -> None:
    """Raises before the simulation if a picture could not be made after it."""
    if plot is not None and plot.suffix.lower() == ".png":
        raise UsageError(f"--plot writes an HTML page; for a picture: --png {plot}.")
    if png is not None:
        find_browser()


def _picture(html: str) -> bytes:
    with TemporaryDirectory(prefix="bandit-serve-plot-") as folder:
        path = Path(folder, "plot.png")
        save_picture(html, path)
        return path.read_bytes()

"""Command `bandit-serve demo`: the main use of the service, from end to end, on real ratings."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from bandit_serve.base.terminal import Terminal, print_line
from bandit_serve.cli.output import print_json
from bandit_serve.cli.setting_options import setting_option
from bandit_serve.demo.display import Display, Lines, Silence
from bandit_serve.demo.ratings import RatingsSource, find_ratings
from bandit_serve.demo.recommender import Recommender, train_all
from bandit_serve.demo.screen import Screen, print_closing
from bandit_serve.demo.service import DemoService, Interrupted, Interruptible
from bandit_serve.server.libraries import require_libraries
from bandit_serve.settings import load_settings
from bandit_serve.store.binary import find_server
from bandit_serve.training.ratings import Ratings
from bandit_serve.training.splits import holdout
from bandit_serve.training.visits import visits as visits_of

HELD_OUT = 0.3
SPLIT_SEED = 0
"""One split for every run: `--seed` changes the luck of the visits, not how much better one arm is."""
VISITS = 40_000
MIN_VISITS = 10_000
TRAFFIC_UNTIL_S = 90.0


def demo(
    ratings: Annotated[
        str | None,
        typer.Option(help="MovieLens ratings.csv or u.data (default: the MovieLens small set, downloaded)."),
    ] = None,
    visits: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help=f"Visits to send (default: {VISITS}).")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the visits: who comes, and what they are offered.")
    ] = 0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Download nothing: without --ratings, use made-up ones.")
    ] = False,
    store: Annotated[str | None, setting_option("store", default="a private server")] = None,
    data: Annotated[str | None, setting_option("data", default="a temporary one")] = None,
    port: Annotated[int, setting_option("port", default="0")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")
    ] = False,
) -> None:
    """Trains recommenders, serves them, and lets a bandit find the best one in replayed traffic."""
    # It takes asyncio and the client, for which `bandit-serve --help` does not wait.
    from bandit_serve.demo.play import play

    require_libraries()
    started_s = time.monotonic()

    def enough(sent: int) -> bool:
        return visits is None and _enough(sent, time.monotonic() - started_s)

    if load_settings({"store": store, "port": port}).store is None:
        find_server()
    console = Terminal()
    display: Display = Silence() if as_json else Screen(console) if console.is_terminal else Lines()
    try:
        with Interruptible() as interruptible, _folder(data) as folder, ExitStack() as running:
            with display:
                source = _find(ratings, offline, display)
                train, held_out = holdout(source.ratings.users, HELD_OUT, SPLIT_SEED, source.ratings.pairs)
                recommenders = _train(source.ratings.take(train), display)
                liked_from = source.ratings.liked_from
                planned = list(
                    visits_of(source.ratings.take(held_out), visits or VISITS, seed, liked_from=liked_from)
                )
                display.busy("starting the service")
                service = running.enter_context(DemoService(folder, store=store, port=port))
                display.done(f"Service: one worker on {service.url}")
                playing = play(
                    service.url, source, recommenders, planned, display, seed=seed, enough=enough, keep=keep
                )
                summary = interruptible.run(playing)
            if as_json:
                print_json(summary)
            else:
                print_closing(console, summary)
            if keep:
                _stay()
    except Interrupted as interruption:
        print_line("Interrupted; the service has ended and nothing is left running.", to=sys.stderr)
        raise typer.Exit(128 + interruption.number) from None


def _enough(sent: int, elapsed_s: float) -> bool:
    """Whether the traffic may end early, on a machine that is too slow for all visits in two minutes."""
    return sent >= MIN_VISITS and elapsed_s > TRAFFIC_UNTIL_S


def _find(path: str | None, offline: bool, display: Display) -> RatingsSource:
    display.busy("looking for ratings")
    source = find_ratings(path, offline=offline)
    counts = f"{len(source.ratings):,} ratings, {source.n_users:,} users, {source.n_items:,} items"
    display.done(f"Data: {source.name} ({counts})")
    if source.why is not None:
        display.done(f"Not MovieLens, as {source.why}; --ratings FILE takes a file of yours")
    return source


def _train(ratings: Ratings, display: Display) -> list[Recommender]:
    started_s = time.monotonic()
    recommenders = train_all(
        ratings, lambda arm, done, epochs: display.busy(f"training {arm}: epoch {done} of {epochs}")
    )
    names = ", ".join(recommender.arm for recommender in recommenders)
    display.done(f"Trained in {time.monotonic() - started_s:.1f} s: {names}")
    return recommenders


@contextmanager
def _folder(data: str | None) -> Iterator[Path]:
    """Yields the given data directory, or a temporary one."""
    if data is not None:
        yield Path(data)
        return
    with TemporaryDirectory(prefix="bandit-serve-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _stay() -> None:
    """Returns when a signal comes."""
    try:
        while True:
            signal.pause()
    except Interrupted:
        print_line("The service has ended.", to=sys.stderr)

"""Play of the demo: its traffic from the first visit to the last, shown as it goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np

from bandit_serve.client import Client, ClientError, Results
from bandit_serve.demo import traffic
from bandit_serve.demo.display import Display, Moment
from bandit_serve.demo.experiment import MIN_SHARE, DemoExperiment
from bandit_serve.demo.ratings import RatingsSource
from bandit_serve.demo.recommender import Recommender
from bandit_serve.demo.summary import Summary, summarize
from bandit_serve.demo.traffic import Tally
from bandit_serve.errors import BanditServeError
from bandit_serve.training.visits import Visit

SPARE_CONNECTIONS = 4
TIMEOUT_S = 30.0


async def play(
    url: str,
    source: RatingsSource,
    recommenders: Sequence[Recommender],
    visits: Sequence[Visit],
    display: Display,
    *,
    seed: int,
    enough: Callable[[int], bool],
    keep: bool,
) -> Summary:
    """Registers the recommenders with the service at `url`, sends the traffic, and returns the summary.

    `seed` (that of the visits) and `keep` (whether the service stays up) are reported in the summary. `enough(sent)`
    may end the traffic early. Raises `BanditServeError` where the service says no or can not be asked.
    """
    try:
        return await _play(url, source, recommenders, visits, display, seed=seed, enough=enough, keep=keep)
    except ClientError as error:
        raise BanditServeError(f"The service at {url} failed: {error}") from None


async def _play(
    url: str,
    source: RatingsSource,
    recommenders: Sequence[Recommender],
    visits: Sequence[Visit],
    display: Display,
    *,
    seed: int,
    enough: Callable[[int], bool],
    keep: bool,
) -> Summary:
    display.busy("trying every recommender on every visit, for the regret")
    outcomes = np.column_stack([recommender.rewards(visits) for recommender in recommenders])
    connections = traffic.AT_ONCE + SPARE_CONNECTIONS
    async with Client(url, timeout=TIMEOUT_S, max_connections=connections) as client:
        experiment = await DemoExperiment.start(client, recommenders)
        display.done(
            f"Experiment {experiment.name}: Thompson sampling, control {experiment.arms[0]}, "
            f"every arm at least {100 * MIN_SHARE:.0f} %"
        )
        tally = Tally(experiment.arms, outcomes)
        started_s = time.monotonic()
        async with _watched(experiment, tally, display, started_s):
            await traffic.send(experiment, visits, tally, enough)
        traffic_s = time.monotonic() - started_s
        results = await experiment.results()
    return summarize(
        source, experiment, tally, results, seed=seed, traffic_s=traffic_s, url=url if keep else None
    )


@contextlib.asynccontextmanager
async def _watched(
    experiment: DemoExperiment, tally: Tally, display: Display, started_s: float
) -> AsyncIterator[None]:
    """Shows each moment at the pace of `display`, and the last one."""

    def show(results: Results) -> None:
        display.moment(Moment(tally, results, time.monotonic() - started_s))

    async def watch() -> None:
        while True:
            await asyncio.sleep(display.every_s)
            show(await experiment.results())

    watching = asyncio.create_task(watch())
    try:
        yield
        show(await experiment.results())
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

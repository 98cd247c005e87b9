"""Assignments while something happens: a pause, an outage, a log that takes nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from stores import ThrowawayStore

from bandit_serve.cli.access import following
from bandit_serve.errors import StoreUnavailable, in_full
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.places import place_of
from bandit_serve.node import Node
from bandit_serve.scoring.assignments import Exposures, assign_files
from bandit_serve.scoring.row_files import Chunk, RowFile
from bandit_serve.settings import Settings

N = 20


def between(happens: Callable[[], object]) -> RowFile:
    """Two chunks of N units each, between which something happens."""

    def chunks(n: int, names: Sequence[str]) -> Iterator[Chunk]:
        yield Chunk("rows", range(N), {"unit": [f"u{n}" for n in range(N)]}, [])
        happens()
        yield Chunk("rows", range(N, 2 * N), {"unit": [f"v{n}" for n in range(N)]}, [])

    return RowFile("rows", ["unit"], chunks)


def with_node(store: ThrowawayStore, data: Path, work: Callable[[Node], Awaitable[Any]]) -> Any:
    """What the work gives, in a loop and a thread of its own."""

    async def run() -> Any:
        async with following(Settings(data=str(data), store=store.url), store.url) as node:
            return await work(node)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def assigned(
    store: ThrowawayStore, folder: Path, happens: Callable[[Node], object], exposures: Exposures
) -> list[dict[str, Any]]:
    """Rows that are written, while something happens after the first N of 2 N."""

    async def work(node: Node) -> None:
        click = Metric(name="click", kind="binary", role="objective")
        counted = Attribution(window="60s", missing="zero")
        made = Experiment(
            id="e", arms=(Arm("a"), Arm("b")), unit="user", metrics=(click,), attribution=counted
        )
        await node.experiment_changes.create(made, "test")
        await node.experiment_changes.start("e", "test")
        place = place_of(str(folder / "out"))
        await assign_files(
            node,
            "e",
            [between(lambda: happens(node))],
            place,
            "parquet",
            exposures=exposures,
            rejects=place_of(str(folder / "rejects")),
        )

    with_node(store, folder, work)
    rows: list[dict[str, Any]] = pq.read_table(folder / "out").to_pylist()
    return rows


@pytest.mark.parametrize("exposures", ["now", "later"])
def test_a_pause_holds_from_the_next_chunk_on(
    store: ThrowawayStore, tmp_path: Path, exposures: Exposures
) -> None:
    def pause(_: Node) -> None:
        with_node(store, tmp_path, lambda node: node.experiment_changes.pause("e", "test"))

    rows = assigned(store, tmp_path, pause, exposures)
    assert [row["decision_id"] is None for row in rows] == [False] * N + [True] * N
    assert {row["arm"] for row in rows[N:]} == {"a"}


def test_a_log_that_takes_nothing_leaves_no_file(store: ThrowawayStore, tmp_path: Path) -> None:
    def spoil(node: Node) -> None:
        with store.client() as client:
            client.set(node.store.keys.expiries("e"), "of another type")

    with pytest.raises(StoreUnavailable, match="could not be logged") as refused:
        assigned(store, tmp_path, spoil, "now")
    assert f"{N} exposures are in the log" in in_full(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_outage_is_waited_out(store: ThrowawayStore, tmp_path: Path) -> None:
    starts: list[threading.Timer] = []

    def restart(_: Node) -> None:
        store.kill()
        starts.append(threading.Timer(2.0, store.start))
        starts[0].start()

    rows = assigned(store, tmp_path, restart, "now")
    starts[0].join()
    assert len({row["decision_id"] for row in rows} - {None}) == 2 * N

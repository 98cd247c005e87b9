"""Processes that score chunks, here or on a cluster, whose answers come in the order of the chunks."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Protocol

from bandit_serve.base.extras import require
from bandit_serve.base.secrets import know_secrets_of, shown_place
from bandit_serve.errors import BanditServeError
from bandit_serve.processes.parent import end_with_parent
from bandit_serve.scoring.model_source import ModelSource
from bandit_serve.scoring.question import BatchQuestion
from bandit_serve.scoring.row_files import Chunk
from bandit_serve.scoring.scorer import ScoredChunk, Scorer

AHEAD = 2
"""Chunks of each process that are read and not yet written."""
MAX_OPEN = 4

_scorers: list[Scorer] = []


class _Promised(Protocol):
    def result(self) -> ScoredChunk: ...


def in_order(
    scorer: Scorer,
    source: ModelSource,
    question: BatchQuestion,
    chunks: Iterable[Chunk],
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> Iterator[ScoredChunk]:
    """Answers about each chunk, in order: by `scorer` itself, by as many processes with one of their own, or by those
    of the dask cluster with this `scheduler`, which have to find the model's file at the same path.

    No more than `AHEAD` chunks a process are in memory. Raises `BanditServeError` where a process ends by itself, and
    for a scheduler that does not answer.
    """
    if scheduler is not None:
        return _on_cluster(source, question, chunks, scheduler)
    return map(scorer.score, chunks) if workers == 1 else _in_processes(source, question, chunks, workers)


def _kept_in_order(
    chunks: Iterable[Chunk], submit: Callable[[Chunk], _Promised], n_processes: int
) -> Iterator[ScoredChunk]:
    under_way: deque[_Promised] = deque()
    for chunk in chunks:
        under_way.append(submit(chunk))
        if len(under_way) >= AHEAD * n_processes:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()


def _in_processes(
    source: ModelSource, question: BatchQuestion, chunks: Iterable[Chunk], workers: int
) -> Iterator[ScoredChunk]:
    # Not forked: ONNX Runtime has threads, whose locks a fork would copy as they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_open, initargs=(os.getpid(), source, question)
    )
    try:
        yield from _kept_in_order(chunks, lambda chunk: pool.submit(_score, chunk), workers)
    except BrokenProcessPool:
        raise BanditServeError(
            "A process that scored has ended by itself: it may have had too little memory."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _open(parent: int, source: ModelSource, question: BatchQuestion) -> None:
    end_with_parent(parent)
    # Ctrl-C reaches all; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _scorers.append(Scorer(source, question))


def _score(chunk: Chunk) -> ScoredChunk:
    return _scorers[0].score(chunk)


def _on_cluster(
    source: ModelSource, question: BatchQuestion, chunks: Iterable[Chunk], scheduler: str
) -> Iterator[ScoredChunk]:
    distributed = require("distributed", "dask")
    know_secrets_of(scheduler)
    try:
        client = distributed.Client(scheduler)
    except (OSError, ValueError) as error:
        raise BanditServeError(
            f"The dask scheduler {shown_place(scheduler)} does not answer: {error}."
        ) from None
    with client:
        (about,) = client.scatter([(source, question)], broadcast=True, hash=False)
        n_threads = max(1, sum(client.nthreads().values()))
        try:
            yield from _kept_in_order(
                chunks, lambda chunk: client.submit(_score_about, about, chunk, pure=False), n_threads
            )
        except distributed.scheduler.KilledWorker:
            raise BanditServeError(
                "Processes of the cluster that scored have ended by themselves: they may have had too little memory."
            ) from None


def _score_about(about: tuple[ModelSource, BatchQuestion], chunk: Chunk) -> ScoredChunk:
    return _scorer(*about).score(chunk)


@lru_cache(MAX_OPEN)
def _scorer(source: ModelSource, question: BatchQuestion) -> Scorer:
    return Scorer(source, question)

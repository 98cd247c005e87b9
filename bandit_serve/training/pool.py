"""Processes that fit models: joblib's, on this machine, or those of a dask or ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bandit_serve.base.extras import require
from bandit_serve.training.plan import Search
from bandit_serve.training.trial import Trial

Work = tuple[Callable[..., Trial], tuple[Any, ...]]


def run(works: Sequence[Work], search: Search, on_done: Callable[[int, Trial], object]) -> list[Trial]:
    """Runs all trials and returns them in the order of `works`. Calls `on_done(index, trial)` as each ends.

    What comes out does not depend on the backend or the number of jobs. `UsageError` where joblib, or what the
    backend needs, is not installed.
    """
    trials: dict[int, Trial] = {}
    with _backend(search):
        joblib = require("joblib", "train")
        parallel = joblib.Parallel(n_jobs=search.jobs, return_as="generator_unordered")
        for index, trial in parallel(
            joblib.delayed(_numbered)(index, *work) for index, work in enumerate(works)
        ):
            trials[index] = trial
            on_done(index, trial)
    return [trials[index] for index in range(len(works))]


def _numbered(index: int, call: Callable[..., Trial], arguments: tuple[Any, ...]) -> tuple[int, Trial]:
    return index, call(*arguments)


@contextlib.contextmanager
def _backend(search: Search) -> Iterator[None]:
    joblib = require("joblib", "train")
    with contextlib.ExitStack() as stack:
        if search.backend == "dask":
            distributed = require("distributed", "dask")
            stack.enter_context(
                distributed.Client(search.scheduler) if search.scheduler else distributed.Client()
            )
        elif search.backend == "ray":
            require("ray", "ray").init(address=search.scheduler, ignore_reinit_error=True)
            require("ray.util.joblib", "ray").register_ray()
        stack.enter_context(joblib.parallel_config(backend=search.backend))
        yield

"""Clusters of dask on this machine, also on one that is busy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def dask_cluster(**options: Any) -> Iterator[Any]:
    """Cluster of processes. Skips the test without dask.

    dask waits ten seconds for a thread of its own to begin, and gives up then; here it is tried again.
    """
    distributed = pytest.importorskip("distributed")
    while True:
        runner = distributed.utils.LoopRunner()
        with contextlib.suppress(AssertionError):
            runner.start()
            break
    try:
        with distributed.LocalCluster(dashboard_address=":0", loop=runner.loop, **options) as cluster:
            yield cluster
    finally:
        runner.stop()

"""A thread for scoring that takes too long for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# One thread only: more would take the processor from the event loop. More workers are the way to more throughput.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="scoring")


async def in_scoring_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls the function in the process's scoring thread; returns what it returns, raises what it raises."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, partial(function, *args, **kwargs))

"""Scoring that takes long, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# One thread: more of them would score more at a time, but take the processor from the event loop. Workers are for that.
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="scoring")


async def in_scoring_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the function returns, called in the thread of this process that scores."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, partial(function, *args, **kwargs))

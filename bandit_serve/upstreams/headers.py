"""Headers for upstreams: their values, from where the registry says that they are."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bandit_serve.base.secrets import know_secrets
from bandit_serve.errors import UpstreamFailed

MAX_VALUE_BYTES = 16_384
MAX_READ_S = 2.0
"""Time for the values of one version's headers. A file system that is away may hang for longer."""
MAX_READERS = 8
_ENDS = (b"\r\n", b"\n")
# Threads of their own: a file that hangs keeps its thread, and nothing else may wait for that.
_THREADS = ThreadPoolExecutor(MAX_READERS, thread_name_prefix="headers")
_Asked = tuple[str, tuple[tuple[str, str], ...]]

# Visible characters and spaces between them: no line can be ended, so no header smuggled in.
_value = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class HeaderReader:
    """Reads values of headers outside of the loop. The same values are read once at a time, however many ask."""

    def __init__(self) -> None:
        self._readings: dict[_Asked, asyncio.Future[dict[str, str]]] = {}

    async def read(self, sources: Mapping[str, str], whose: str) -> dict[str, str]:
        """`header_values`; `UpstreamFailed` also after `MAX_READ_S`. The reading goes on for those who ask next."""
        asked = whose, tuple(sorted(sources.items()))
        reading = self._readings.get(asked)
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = self._readings[asked] = loop.run_in_executor(_THREADS, header_values, sources, whose)
            reading.add_done_callback(partial(self._ended, asked))
        try:
            # In Python 3.11, `asyncio.wait_for` may lose a cancellation.
            async with asyncio.timeout(MAX_READ_S):
                return await asyncio.shield(reading)
        except TimeoutError:
            raise UpstreamFailed(f"The headers of {whose} have no values here.").noted(
                f"their files could not be read in {MAX_READ_S:g} s"
            ) from None

    def _ended(self, asked: _Asked, reading: asyncio.Future[dict[str, str]]) -> None:
        del self._readings[asked]
        if not reading.cancelled():
            reading.exception()  # Nobody may be left who awaits it.


def header_values(sources: Mapping[str, str], whose: str) -> dict[str, str]:
    """Values of headers by name. They are secrets from now on.

    `whose` names the version. Raises `UpstreamFailed` for a value that is missing or can not be sent; the sentence
    names the header and the place, never the value.

    A file has to be a regular one, of the service's user or of root, that not everybody can write. So neither a pipe
    nor a device is waited for, and nobody else on the host says what is sent. Reads files: to be called in a thread.
    """
    values = {}
    for name, source in sources.items():
        kind, _, place = source.partition(":")
        try:
            content = os.environb[place.encode()] if kind == "env" else _content(place)
        except KeyError:
            raise UpstreamFailed(f"The header {name} of {whose} has no value here.").noted(
                f"the variable {place} is not set"
            ) from None
        except OSError as error:
            raise UpstreamFailed(f"The header {name} of {whose} has no value here.").noted(
                f"the file {place} can not be read: {error.strerror}"
            ) from None
        except _Unfit as error:
            raise UpstreamFailed(f"The header {name} of {whose} has no value here.").noted(
                f"the file {place} is {error}"
            ) from None
        if len(content) > MAX_VALUE_BYTES or not _value.fullmatch(content):
            raise UpstreamFailed(f"The header {name} of {whose} can not be sent.").noted(
                f"{source}: expected one line of 1 to {MAX_VALUE_BYTES} visible ASCII characters"
            )
        values[name] = content.decode("ascii")
    know_secrets(*values.values())
    return values


class _Unfit(Exception):
    """File from which no header is read. The sentence says in two or three words what it is."""


def _content(path: str) -> bytes:
    """Content of a file, without the line's end that editors leave; cut where it is too long anyway."""
    # Opening a pipe would wait for its writer without O_NONBLOCK, and a terminal could become ours.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise _Unfit("no regular file")
        if about.st_uid not in (0, os.geteuid()):
            raise _Unfit("of another user")
        if about.st_mode & stat.S_IWOTH:
            raise _Unfit("writable for everybody")
        content = os.read(file, MAX_VALUE_BYTES + 3)
    finally:
        os.close(file)
    return next((content.removesuffix(end) for end in _ENDS if content.endswith(end)), content)

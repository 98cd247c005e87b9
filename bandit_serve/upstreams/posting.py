"""Posting of a body to an address of the configuration, for which only the status of the answer counts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bandit_serve.errors import UpstreamFailed
from bandit_serve.upstreams.pool import UpstreamPool

MAX_READ_BYTES = 65_536
"""What is read of an answer, so that its connection may be used again."""


async def post(
    pool: UpstreamPool, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> None:
    """Posts JSON to `url`. Redirects are not followed, as they would lead elsewhere than the configuration says.

    Raises `UpstreamFailed`, whose sentence names no address, unless the answer is of the 200s and comes in time.
    """
    from yarl import URL

    try:
        async with asyncio.timeout(timeout_s):
            async with pool.session.post(
                URL(url, encoded=True),
                data=body,
                headers={"Content-Type": "application/json", **headers},
                allow_redirects=False,
            ) as response:
                if not 200 <= response.status < 300:
                    raise UpstreamFailed(f"It answered with the status {response.status}.")
                await response.content.read(MAX_READ_BYTES)
    except UpstreamFailed:
        raise
    except TimeoutError:
        raise UpstreamFailed(f"It gave no answer in {timeout_s:g} s.") from None
    except Exception as error:  # of the connection, of TLS, or of what reads the answer's head
        raise UpstreamFailed(f"It can not be reached or broke off ({type(error).__name__}).") from None

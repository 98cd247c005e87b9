"""Live pages: a viewer is never shown what is older than the page that was loaded, and leaves no trace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from http_calls import running
from services import ThrowawayService
from stores import wait_until

from bandit_serve.errors import Overloaded
from bandit_serve.server.live_pages import FollowedPage, LivePages


class Moving:
    """Page of one part, the number of changes; what is made of it waits while `held`."""

    def __init__(self) -> None:
        self.changes = 0
        self.held = asyncio.Event()
        self.held.set()
        self.n_made = 0

    def seen(self) -> int:
        return self.changes

    async def render(self) -> dict[str, str]:
        self.n_made += 1
        made = str(self.changes)
        await self.held.wait()
        return {"part": made}


def part(page: FollowedPage) -> str:
    event = page.event(0)
    return str(msgspec.json.decode(event.partition(b"data: ")[2])["part"])


async def until(page: FollowedPage, number: int) -> None:
    while page.number < number:
        await page.after(page.number, 60)


@pytest.fixture
def reviews() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_who_comes_while_others_look_gets_nothing_older(reviews: asyncio.Runner) -> None:
    async def look() -> None:
        moving, pages = Moving(), LivePages(10)
        running = asyncio.create_task(pages.run())
        with pages.following("p", moving.seen, moving.render) as first:
            await until(first, 1)
            assert part(first) == "0"
            moving.changes += 1
            with pages.following("p", moving.seen, moving.render) as second:
                assert second is first
                await second.newer(60)
                assert part(second) == "1"
        running.cancel()

    reviews.run(look())


def test_a_review_that_had_begun_before_is_not_new_enough(reviews: asyncio.Runner) -> None:
    async def look() -> None:
        moving = Moving()
        page = FollowedPage(moving.seen, moving.render)
        await page.review()
        moving.changes += 1
        moving.held.clear()
        old = asyncio.create_task(page.review())
        await asyncio.sleep(0)
        moving.changes += 1
        coming = asyncio.create_task(page.newer(60))
        moving.held.set()
        await old
        await asyncio.sleep(0.01)
        assert part(page) == "1"
        assert not coming.done()
        await page.review()
        await coming
        assert part(page) == "2"

    reviews.run(look())


def test_who_comes_to_a_page_at_rest_waits_for_nothing(reviews: asyncio.Runner) -> None:
    async def look() -> None:
        moving = Moving()
        page = FollowedPage(moving.seen, moving.render)
        await page.review()
        await page.newer(0)
        assert (part(page), moving.n_made) == ("0", 1)

    reviews.run(look())


def test_a_page_that_is_never_reviewed_is_not_waited_for_without_end(reviews: asyncio.Runner) -> None:
    async def look() -> None:
        moving = Moving()
        page = FollowedPage(moving.seen, moving.render)
        await page.newer(0.01)
        assert page.number == 0

    reviews.run(look())


def test_viewers_are_bounded_and_forgotten(reviews: asyncio.Runner) -> None:
    async def look() -> None:
        moving, pages = Moving(), LivePages(2)
        with (
            pages.following("p", moving.seen, moving.render),
            pages.following("q", moving.seen, moving.render),
            pytest.raises(Overloaded),
            pages.following("p", moving.seen, moving.render),
        ):
            pass
        with pages.following("p", moving.seen, moving.render) as alone:
            assert alone.viewers == 1

    reviews.run(look())


def follow(service: ThrowawayService, path: str) -> socket.socket:
    """Connection on which the service has begun to follow the page, or has said no."""
    port = int(service.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    connection.recv(65_536, socket.MSG_PEEK)
    return connection


def test_viewers_who_left_make_room_though_nothing_moves(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, "--max-connections", "32") as service:
        name = running(service)
        path = f"/experiments/{name}/live"
        wait_until(lambda: service.call("GET", f"/experiments/{name}").status == 200)
        followed = []
        while (connection := follow(service, path)).recv(12, socket.MSG_PEEK).endswith(b"200"):
            followed.append(connection)
        assert followed
        for each in [connection, *followed]:
            each.close()

        def has_room() -> bool:
            with follow(service, path) as again:
                return again.recv(12).endswith(b"200")

        # A silent page is written to every 15 s.
        wait_until(has_room, timeout_s=12)

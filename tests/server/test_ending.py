"""End of tasks, even when a cancellation is lost."""

from __future__ import annotations

import asyncio

from bandit_serve.server.ending import end


def test_a_task_that_lost_a_cancellation_ends_all_the_same() -> None:
    async def scenario() -> None:
        lost = 0

        async def deaf() -> None:
            nonlocal lost
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    lost += 1
                    if lost == 2:
                        raise

        async def willing() -> None:
            await asyncio.sleep(60)

        async def failed() -> None:
            raise ValueError("on its own")

        tasks = [asyncio.create_task(run()) for run in (deaf, willing, failed)]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await end(tasks)
        assert lost == 2
        assert tasks[0].cancelled()
        assert tasks[1].cancelled()
        assert isinstance(tasks[2].exception(), ValueError)

    asyncio.run(scenario())


def test_there_may_be_nothing_to_end() -> None:
    asyncio.run(end([]))

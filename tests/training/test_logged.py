"""Data sets out of a service's own log."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, revisions, rewards
from stores import ThrowawayStore

from bandit_serve.errors import InvalidInput
from bandit_serve.log import events
from bandit_serve.log.events import Pair
from bandit_serve.log.repairs import Repairs
from bandit_serve.store.store import Store
from bandit_serve.training.logged import read_logged

NONE = float("nan")


def test_of_a_value_that_changed_the_last_one_is_in_the_data_set() -> None:
    made = experiment(metrics=[{"name": "stars", "kind": "continuous"}])

    async def run(url: str) -> None:
        store = Store(url, timeout_s=30)

        async def append(kind: bytes, data: bytes) -> None:
            await store.append("e", kind, data)

        try:
            await append(events.CHANGED, events.encode(created(made)))
            with pytest.raises(InvalidInput, match="no rewarded predictions"):
                await read_logged(store, made, 0, Repairs())
            pairs = tuple(Pair(i, f"u{i}", f"i{i}") for i in range(4))
            decided = msgspec.structs.replace(exposed(0, [0] * 4, [5] * 4), pairs=pairs)
            await append(events.EXPOSED, events.encode(decided))
            await append(events.REVISED, revisions([0, 1, 2], NONE, [1.0, 2.0, 3.0]).tobytes())
            await append(events.REWARDED, rewards([3], values=4.0).tobytes())
            changes = revisions([0, 1], [1.0, 2.0], [1.5, NONE], 9)
            await append(events.REVISED, changes.tobytes())
            dataset = await read_logged(store, made, 0, Repairs())
            assert dataset.ratings.users.tolist() == ["u2", "u3", "u0"]
            assert dataset.ratings.items.tolist() == ["i2", "i3", "i0"]
            np.testing.assert_allclose(dataset.ratings.values, [3.0, 4.0, 1.5])
        finally:
            await store.close()

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server.url))

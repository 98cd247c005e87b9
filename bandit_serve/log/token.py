"""Keys that sign decision tokens, and the decoding of tokens into reward rows."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bandit_serve.log._token import KEY_BYTES, TOKEN_CHARS, Opener, Seal
from bandit_serve.log.events import REWARD
from bandit_serve.log.times import KEY_SETTLES_MS, key_ends_ms


class Keyring:
    """Keys whose tokens are still valid; one of them signs.

    `keys` maps a key's id (0 … 255) to the bytes of `new_key`. The newest key that is at least `KEY_SETTLES_MS` old
    signs, as every worker knows it by then; if none is, the oldest.
    """

    def __init__(self, keys: Mapping[int, bytes], now_ms: int) -> None:
        self._born_ms = {key_id: int.from_bytes(value[:8], "little") for key_id, value in keys.items()}
        seals = {key_id: Seal(key_id, bytes(value[8:])) for key_id, value in keys.items()}
        self._opener = Opener(seals.values())
        by_age = sorted(self._born_ms, key=lambda key_id: (self._born_ms[key_id], key_id))
        settled = [key_id for key_id in by_age if self._born_ms[key_id] + KEY_SETTLES_MS <= now_ms]
        self.seal = seals[settled[-1] if settled else by_age[0]]

    @property
    def newest(self) -> int:
        return max(self._born_ms, key=lambda key_id: (self._born_ms[key_id], key_id))

    def knows_key_of(self, token: str) -> bool:
        """Whether the key that a token names is here; True for a malformed token, which names none."""
        try:
            head = urlsafe_b64decode(token[:4])
        except ValueError:
            return True
        return len(token) < TOKEN_CHARS or len(head) != 3 or head[1] in self._born_ms

    def needs_new(self, now_ms: int, rotation_ms: int) -> bool:
        return self._born_ms[self.newest] + rotation_ms <= now_ms

    def expired(self, now_ms: int, longest_window_ms: int) -> list[int]:
        """Ids of keys all of whose tokens are past their attribution windows."""
        ages = sorted(self._born_ms.items(), key=lambda item: (item[1], item[0]))
        return [
            key_id
            for (key_id, _), (_, next_ms) in pairwise(ages)
            if key_ends_ms(next_ms, longest_window_ms) < now_ms
        ]

    def open(
        self, tokens: Sequence[object], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.void], NDArray[np.uint64], dict[int, bytes]]:
        """Decodes n tokens to rows of `REWARD`. Returns the rows, uids and features.

        uids: u64[n], of their experiments, 0 where the token is not ours. features: by row number, the decision's
        features, float32 (d,) as bytes, where it has some.
        """
        rows = np.zeros(len(tokens), REWARD)
        uids = np.zeros(len(tokens), np.uint64)
        features = self._opener.open_into(
            tokens, values, rows.view(np.uint8).reshape(len(tokens), REWARD.itemsize), uids
        )
        return rows, uids, features


def new_key(now_ms: int) -> bytes:
    """Makes a key: the time of its making, and `KEY_BYTES` random bytes."""
    return now_ms.to_bytes(8, "little") + secrets.token_bytes(KEY_BYTES)

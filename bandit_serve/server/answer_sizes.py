"""Sizes of answers with many decisions, known before anything is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandit_serve.api.decisions import ModelName
from bandit_serve.base.turns import Turn
from bandit_serve.models.onnx.signature import NUMBER_BYTES
from bandit_serve.server.service import Service
from bandit_serve.server.wire import MAX_ANSWER_BYTES, answer_too_large, encode_json, encode_msgpack

# Of an answer, beside its names and its payload: fields, numbers and a token, and what each feature adds to that.
ENTRY_BYTES = 400
TOKEN_BYTES_A_FEATURE = 5.34
ITEM_BYTES = 300
"""Bytes of an item with its name and score."""


class AnswerSizes:
    """Largest sizes of one decision's part of an answer, by experiment."""

    def __init__(self, service: Service) -> None:
        self._service = service
        # By experiment: its arms' payloads, and the bytes of the arm with the most.
        self._largest: dict[str, tuple[list[Any], int]] = {}

    async def check_predictions(self, experiment: str, n: int, n_items: int, n_ranked: int) -> None:
        """As `check`, for n answers with predictions of `n_items` items, `n_ranked` ranked items and all outputs."""
        output_bytes = self._service.decisions.max_output_bytes(experiment)
        await self.check(experiment, n, n_items * NUMBER_BYTES + n_ranked * ITEM_BYTES + n * output_bytes)

    async def check(self, experiment: str, n: int, more_bytes: int = 0) -> None:
        """Raises `TooLarge`, before anything is decided, if n answers with the largest payload are too many bytes."""
        decider = self._service.decisions.decider(experiment)
        payloads, largest = self._largest.get(experiment, (None, 0))
        if payloads is not decider.payloads:
            payloads = decider.payloads
            largest = await _largest(decider.arm_names, decider.models, payloads)
            self._largest[experiment] = payloads, largest
        entry_bytes = ENTRY_BYTES + len(experiment) + TOKEN_BYTES_A_FEATURE * decider.n_logged + largest
        if n * decider.slots * entry_bytes + more_bytes > MAX_ANSWER_BYTES:
            raise answer_too_large()


async def _largest(names: Sequence[str], models: Sequence[ModelName | None], payloads: Sequence[Any]) -> int:
    """Largest size in bytes, in JSON or MessagePack, of an arm's part of an answer: name, model, payload."""
    largest, turn = 0, Turn()
    for arm in zip(names, models, payloads, strict=True):
        largest = max(largest, len(encode_json(arm)), len(encode_msgpack(arm)))
        if turn.over:
            await turn.give_way()
    return largest

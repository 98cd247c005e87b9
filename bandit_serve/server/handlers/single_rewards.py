"""Rewards that come one a request. Those of one turn of the loop are taken together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bandit_serve.api.rewards import DecisionReward, RewardVerdict
from bandit_serve.errors import BanditServeError
from bandit_serve.rewards.rewards import TOKENS_A_TURN, Settle
from bandit_serve.server.wire import Reply
from bandit_serve.server.wire_form import WireForm


class _Waiting(NamedTuple):
    reward: DecisionReward
    form: WireForm
    reply: asyncio.Future[Reply]


class SingleRewards:
    """Rewards of decisions that wait for the end of the turn.

    `submit` takes some, and `reply_to` makes the answer of a reward, its verdict and its request's forms, or raises.
    """

    def __init__(
        self,
        submit: Callable[[Sequence[DecisionReward], Settle], None],
        reply_to: Callable[[DecisionReward, RewardVerdict, WireForm], Reply],
    ) -> None:
        self._submit = submit
        self._reply_to = reply_to
        self._waiting: list[_Waiting] = []

    def take(self, reward: DecisionReward, form: WireForm) -> asyncio.Future[Reply]:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._submit_waiting)
        reply = loop.create_future()
        self._waiting.append(_Waiting(reward, form, reply))
        return reply

    def _submit_waiting(self) -> None:
        some, self._waiting = self._waiting[:TOKENS_A_TURN], self._waiting[TOKENS_A_TURN:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._submit_waiting)

        def settle(i: int, outcome: RewardVerdict | Exception) -> None:
            reward, form, reply = some[i]
            if reply.done():
                return
            if isinstance(outcome, Exception):
                reply.set_exception(outcome)
                return
            try:
                reply.set_result(self._reply_to(reward, outcome, form))
            except BanditServeError as error:
                # With its traceback it would keep all requests of the turn in memory until the next collection.
                reply.set_exception(error.with_traceback(None))
            except Exception as error:
                reply.set_exception(error)

        try:
            self._submit([each.reward for each in some], settle)
        except Exception as error:
            for i in range(len(some)):
                settle(i, error)

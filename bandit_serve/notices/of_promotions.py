"""Notices of promotions that have ended, as the registry's log has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET

from bandit_serve.notices.notice import DAY_MS, Notice
from bandit_serve.registry.promotions import Promotion


def of_promotions(promotions: Mapping[str, tuple[Promotion, ...]], now_ms: int) -> Iterator[Notice]:
    """Notices of promotions that have ended within a day, with what their last step was judged by."""
    for known in promotions.values():
        # One is under way at a time, so that they ended in their order.
        for promotion in reversed(known):
            if promotion.ended_ms is UNSET:
                continue
            if promotion.ended_ms <= now_ms - DAY_MS:
                break
            data = {
                "promotion": promotion.id,
                "model": promotion.model,
                "version": promotion.version,
                "former": promotion.former,
                "state": promotion.state,
                "reason": promotion.reason or None,
                "step": msgspec.to_builtins(promotion.steps[-1]) if promotion.steps else None,
            }
            told = f"promotion:{promotion.model}:{promotion.id}"
            yield Notice("promotion", told, promotion.ended_ms, data, promotion.plan.experiment or None)

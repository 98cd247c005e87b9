"""Page of the service: its state, workers, logs, learners, and counts since the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bandit_serve.dashboard.numbers import ShownNumbers, text_of
from bandit_serve.dashboard.surroundings import Surroundings
from bandit_serve.dashboard.templates import rendered

COUNTS = ("decisions", "predictions", "exposures_lost", "ejections", "experiments_left_out")
PARTS = ("notices", "state", "workers", "logs", "counts")


def service_parts(stats: Mapping[str, Any], around: Surroundings) -> dict[str, Markup]:
    """HTML of what `/v1/stats` and `/metrics` say of the service as a whole."""
    counts = {name: stats[name] for name in COUNTS}
    numbers = ShownNumbers({**counts, "uptime_s": stats["uptime_s"], "rewards": stats["rewards"]})
    content = {"stats": stats, "around": around, "n": numbers.show, "counts": COUNTS, "text": text_of}
    return {part: rendered(f"service/{part}.html", **content) for part in PARTS}

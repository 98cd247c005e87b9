"""Replay of policies that learn: what they would have earned while they learned, from decisions of another policy.

`replay` is a function of columns. `LearningReplay` takes a log in parts, in the order of time, and keeps none of it.
"""

from bandit_serve.results.off_policy.learning.chances import Chances
from bandit_serve.results.off_policy.learning.logged_part import LoggedPart
from bandit_serve.results.off_policy.learning.replay import LearningReplay, ReplayOptions, replay
from bandit_serve.results.off_policy.learning.replay_result import Curve, ReplayResult

__all__ = ["Chances", "Curve", "LearningReplay", "LoggedPart", "ReplayOptions", "ReplayResult", "replay"]

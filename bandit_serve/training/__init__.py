"""Training: from ratings to models whose worth is known."""

from bandit_serve.training.columns import RatingColumns
from bandit_serve.training.dataset import DataSet, read_dataset
from bandit_serve.training.pipeline import Trained, TrainingProgress, TrainingResult, train
from bandit_serve.training.plan import Plan, read_plan

__all__ = [
    "DataSet",
    "Plan",
    "RatingColumns",
    "Trained",
    "TrainingProgress",
    "TrainingResult",
    "read_dataset",
    "read_plan",
    "train",
]

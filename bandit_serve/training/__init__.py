"""Training: from ratings to models whose worth is known."""

from bandit_serve.training.columns import Columns
from bandit_serve.training.dataset import DataSet, read_dataset
from bandit_serve.training.pipeline import Progress, Trained, TrainingResult, train
from bandit_serve.training.plan import Plan, read_plan

__all__ = [
    "Columns",
    "DataSet",
    "Plan",
    "Progress",
    "Trained",
    "TrainingResult",
    "read_dataset",
    "read_plan",
    "train",
]

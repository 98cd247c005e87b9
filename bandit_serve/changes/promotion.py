"""Promotion of the winner that an experiment was stopped with."""

from __future__ import annotations

from bandit_serve.changes.changes import Changes
from bandit_serve.experiments.spec import Record
from bandit_serve.registry.registry import ModelChanged, Registry


def promotion(record: Record) -> str:
    """Key under which the registry remembers this promotion, so that it happens only once."""
    return f"{record.experiment.id}:{record.uid}:{record.revision}"


async def promote_winner(changes: Changes, record: Record) -> None:
    """Promotes the winner's version if the experiment was stopped with one and this was not done before."""
    if record.status != "stopped" or record.winner is None or record.unpromoted is True:
        return
    arm = next(arm for arm in record.experiment.arms if arm.name == record.winner)
    if arm.model is None or arm.version is None:
        return
    model, version = arm.model, arm.version
    because = promotion(record)

    def decide(registry: Registry) -> ModelChanged | None:
        if registry.is_done(because):
            return None
        return registry.promote(
            model,
            version,
            now_ms=record.stopped_ms or record.updated_ms,
            who=f"experiment:{record.experiment.id}",
            reason=f"won {record.experiment.id}",
            because=because,
        )

    await changes.change_models(decide)

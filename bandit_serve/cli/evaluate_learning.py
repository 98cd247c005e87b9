"""Replays of policies that learn, for `bandit-serve evaluate --learning`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bandit_serve.cli.evaluate_table import NONE, numbers_of
from bandit_serve.cli.named_policies import Named
from bandit_serve.cli.output import print_table, say
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.evaluation.learning import LearningEvaluation, LearningPolicy, evaluate_learning
from bandit_serve.evaluation.sources import ParquetExport, read_log
from bandit_serve.evaluation.stored import StoredDecisions
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node
from bandit_serve.pictures.values import Valued, values_chart
from bandit_serve.results.off_policy.learning import ReplayOptions


class LearningQuestion:
    """Question what policies would have earned while they learned."""

    def __init__(self, policies: Named, span: TimeSpan, options: ReplayOptions) -> None:
        self._policies = policies
        self._span = span
        self._options = options

    def of_export(self, export: ParquetExport) -> LearningEvaluation:
        experiment, asked = export.experiment, self._asked(export.experiment)
        with tempfile.TemporaryDirectory(prefix="bandit-serve-evaluate.") as folder:
            decisions = StoredDecisions(experiment, experiment.objective.name, Path(folder))
            export.read(experiment.objective.name, self._span, decisions)
            decisions.finish()
            return evaluate_learning(experiment, decisions, asked, self._options)

    async def of_log(self, node: Node, live: LiveExperiment) -> LearningEvaluation:
        experiment, asked = live.experiment, self._asked(live.experiment)
        with tempfile.TemporaryDirectory(prefix="bandit-serve-evaluate.") as folder:
            decisions = StoredDecisions(experiment, experiment.objective.name, Path(folder))
            decisions.withholding.known = await read_log(node, live, self._span, decisions)
            decisions.finish()
            return await asyncio.to_thread(evaluate_learning, experiment, decisions, asked, self._options)

    def _asked(self, experiment: Experiment) -> list[LearningPolicy]:
        asked = []
        for name, spec in self._policies:
            try:
                asked.append(LearningPolicy(name, spec, experiment))
            except InvalidInput as error:
                raise UsageError(f"--policy {name}: {error}", error.errors) from None
        return asked

    def print(self, found: LearningEvaluation, plot: Path | None) -> None:
        """Prints a table of values, with what is to be said of each policy below."""
        goal = "more is better" if found.goal == "maximize" else "less is better"
        of = "units" if found.unit == "user" else "decisions"
        say(f"{found.experiment}: mean {found.metric} while a policy learns ({goal}), Student's intervals")
        rows = [("as it was", f"all {found.n:,} {of}", "mean", *numbers_of(found.logged))]
        for each in found.policies:
            first = f"first {each.horizon:,}"
            for place, (method, estimate) in enumerate(each.estimates.items()):
                name, part = (each.name, first) if place == 0 else ("", "")
                rows.append((name, part, method, *numbers_of(estimate)))
            if not each.estimates:
                rows.append((each.name, NONE, NONE, NONE, NONE, NONE))
        columns = ("Policy", f"Of {of}", "Method", "Value", "SE", f"{1 - found.alpha:.0%} of all")
        print_table(columns, rows, numbers=("Value", "SE"), intervals=columns[5:])
        for each in found.policies:
            say(
                f"{each.name}: {each.runs} runs accepted {each.accepted:,} of {each.offered:,} {of}, the shortest "
                f"{each.least_accepted:,}."
            )
            for sentence in (*each.warnings, *((each.refusal,) if each.refusal else ())):
                say(f"{each.name}: {sentence}")
        if found.missing == "ignore":
            say("Only decisions with a reward count (missing: ignore): values are of those.")
        if plot is not None:
            say(f"Plot: {plot}")

    def picture(self, found: LearningEvaluation) -> str:
        rows = [Valued("as it was", found.logged.value, found.logged.interval)]
        for each in found.policies:
            value = each.estimates.get("dr")
            name = each.name if value is None else f"{each.name}, first {each.horizon:,}"
            rows.append(Valued(name, value.value if value else None, value.interval if value else None))
        about = (
            f"mean {found.metric} in {self._options.runs} runs, doubly robust, {1 - found.alpha:.0%} in all"
        )
        title = f"{found.experiment}: what policies would have earned while they learned"
        return values_chart(title, about, found.logged.value, rows)

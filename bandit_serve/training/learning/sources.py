"""Sources of a learner: the logs of the experiments whose rewards it learns from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from bandit_serve.errors import NotFound
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Event, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.log.reader import event_of, pages
from bandit_serve.log.repairs import LeftOut
from bandit_serve.node import Node
from bandit_serve.training.learning.learner import ContinuousLearner, Followed, in_order
from bandit_serve.training.rating_rule import read_rule, rule_of

# Entries of a log that are read before they are learned from.
ENTRIES_AT_ONCE = 20_000


class Sources:
    """Experiments by name, or all that have an arm of the model where `experiments` is None.

    rules: text, the rules that make ratings of their rewards, where those are not the objective's utility.
    """

    def __init__(
        self,
        node: Node,
        model: str,
        experiments: Collection[str] | None,
        rules: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self._node = node
        self._model = model
        self._experiments = experiments
        self._rules = rules
        self._say = say

    @property
    def are_named(self) -> bool:
        return self._experiments is not None

    async def followed(self) -> dict[str, Followed]:
        """Experiments to learn from as they are now. `NotFound` for one that is named and is not there."""
        await self._node.tail.refresh_all()
        replica, names = self._node.replica, self._experiments
        followed = {}
        # Those that are set aside, too: once they are repaired, the learner goes on where it was.
        for name, record in sorted(replica.records().items()):
            uses = any(arm.model == self._model for arm in record.experiment.arms)
            if (uses if names is None else name in names) and record.status != "draft":
                followed[name] = self._follow(record)
        registry = replica.registry
        for name in (*(names or ()), *self._rules):
            if registry.owner(name) not in registry.experiments:
                raise NotFound(f"There is no experiment {name!r}.")
        return followed

    def _follow(self, record: Record) -> Followed:
        experiment = record.experiment
        text = self._rules.get(experiment.id)
        rule = rule_of(experiment) if text is None else read_rule(text, experiment)
        return Followed(experiment.id, record.uid, experiment.attribution.window_ms, rule)

    async def ends(self, names: Collection[str]) -> dict[str, Offset]:
        """Last offset of each log."""
        store, owner = self._node.store, self._node.replica.registry.owner
        return {name: await store.last_offset(owner(name)) for name in names}

    def are_learned(self, learner: ContinuousLearner, ends: Mapping[str, Offset]) -> bool:
        """Return whether a learner has reached `ends` in all logs that it follows and that can be folded."""
        return all(
            learner.offsets[name] >= end
            for name, end in ends.items()
            if name in learner.offsets and name in self._node.replica.experiments
        )

    async def news(self, learner: ContinuousLearner) -> list[tuple[Offset, str, Event | LeftOut]]:
        """Events of all logs that a learner has not applied yet, in their order, each with its experiment's name."""
        store = self._node.store
        known_ms = await store.time_ms()
        logs: dict[str, list[tuple[Offset, Event | LeftOut]]] = {}
        for name in list(learner.offsets):
            live = self._node.replica.experiments.get(name)
            if live is None or not learner.follows(name, live.record.uid):
                continue  # set aside, or a namesake came: the others are learned from meanwhile
            log: list[tuple[Offset, Event | LeftOut]] = []
            async for page in pages(store, live.owner, learner.offsets[name]):
                if page.gap is not None:
                    self._say(
                        f"The log of {name} was trimmed through {page.gap}, further than was learned: a part is lost."
                    )
                    learner.pass_over(name, page.gap)
                decoded = self._decoded(live, page.entries)
                log += decoded
                if len(decoded) < len(page.entries):
                    break
                if len(log) >= ENTRIES_AT_ONCE:
                    # Not to its end: entries after it are later than the last that was read.
                    known_ms = min(known_ms, log[-1][0].time_ms)
                    break
            logs[name] = log
        return in_order(logs, known_ms)

    def _decoded(self, live: LiveExperiment, entries: list[Entry]) -> list[tuple[Offset, Event | LeftOut]]:
        """Events of entries; of one that a build folded that could read it, a tick.

        They end at one that can not be read where the fold has not come to yet: there the experiment is set aside.
        """
        name, repairs = live.experiment.id, self._node.replica.registry.repairs
        decoded: list[tuple[Offset, Event | LeftOut]] = []
        for entry in entries:
            event: Event | LeftOut = Tick()
            try:
                event = event_of(entry, live.owner, repairs, live.n_logged)
            except Exception as error:
                if entry.offset > live.offset:
                    break
                self._say(f"What {name} has at {entry.offset} can not be read and is passed over: {error}")
            decoded.append((entry.offset, event))
        return decoded

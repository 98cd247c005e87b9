"""Description of an experiment as it is in files, compared with the experiment as it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bandit_serve_client import calls
from bandit_serve_client.calls import Call
from bandit_serve_client.errors import FixedOnceCreated, Unsendable
from bandit_serve_client.experiments import Experiment

DEFAULTS: dict[str, Any] = {
    "unit": "request",
    "policy": {"kind": "fixed_split"},
    "goal": "maximize",
    "source": "client",
    "on_harm": "report",
    "window": "1h",
    "min_samples": 0,
    "alpha": 0.05,
    "promote_winner": False,
    "expected_samples": 5_000,
    "keep_assigned": False,
    "mode": "allocate",
}
"""Values of fields that a description leaves out."""
STANDING = frozenset(
    {
        *("status", "revision", "created_at", "updated_at", "started_at", "stopped_at", "winner"),
        *("arm_status", "ramps", "set_aside", "etag", "overridden", "unpromoted", "held"),
    }
)
"""Fields that say where an experiment stands, and not what it is."""
TIMES = frozenset({"start_at", "end_at"})
"""Fields that are times, whatever their zone."""
OF_THE_EXPERIMENT = frozenset({"name", "role", "margin", "on_harm"})
"""Fields of a metric that are its experiment's, also where the catalogue of the service says what it is."""
DERIVED = frozenset({"control", "role", "missing"})
"""Fields that the service fills in from the others."""


class Description:
    """Description of an experiment. Raises `Unsendable` where it has no name."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        name = document.get("id")
        if not isinstance(name, str):
            raise Unsendable("id: expected the experiment's name.")
        self.id = name
        self._document = document

    def changes(self, standing: Experiment) -> list[Call[Experiment]]:
        """Lists the calls that make the experiment what is described."""
        if standing.status == "draft":
            same = is_same(dict(self._document), _as_document(standing))
            return [] if same else [calls.replace_draft(self.id, self._document, standing.etag)]
        self._refuse_fixed(standing)
        stand = {arm.name: arm for arm in standing.arms if standing.arm_status.get(arm.name) != "removed"}
        asked = {arm["name"]: arm for arm in self._document.get("arms", ())}
        changes = [calls.add_arm(self.id, arm, None) for name, arm in asked.items() if name not in stand]
        policy = self._document.get("policy", DEFAULTS["policy"])
        if policy != standing.policy:
            changes.append(calls.change_policy(self.id, policy, None))
        layer, present = self._document.get("layer"), standing.layer
        if layer is not None and present is not None and layer.get("share") != present.share:
            changes.append(calls.change_layer(self.id, layer["share"], layer.get("name"), None, None))
        changes += [calls.remove_arm(self.id, name, None, None) for name in stand if name not in asked]
        return changes

    def _refuse_fixed(self, standing: Experiment) -> None:
        asked, stands = dict(self._document), _as_document(standing)
        arms = {arm["name"]: arm for arm in stands.pop("arms")}
        if standing.layer is not None and isinstance(asked.get("layer"), Mapping):
            asked["layer"] = {**asked["layer"], "share": standing.layer.share}
        if isinstance(asked.get("metrics"), list | tuple):
            asked["metrics"] = _with_definitions(asked["metrics"], stands["metrics"])
        known = [arm for arm in asked.pop("arms", ()) if arm["name"] in arms]
        pairs = [(name, asked.get(name), stands.get(name)) for name in {*asked, *stands} - {"policy"}]
        pairs += [(f"arm {arm['name']}", arm, arms[arm["name"]]) for arm in known]
        for name, before, after in pairs:
            if not is_same({name: before}, {name: after}):
                raise FixedOnceCreated(
                    f"{name} of {self.id!r} is fixed once created: it is {after!r} and can not become {before!r}."
                )


def _with_definitions(asked: Sequence[Any], stands: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Metrics in which those without a kind, which the catalogue defined at the start, are what they were then."""
    definitions = {
        metric["name"]: {name: value for name, value in metric.items() if name not in OF_THE_EXPERIMENT}
        for metric in stands
    }
    return [
        {**definitions.get(metric.get("name"), {}), **metric}
        if isinstance(metric, Mapping) and "kind" not in metric
        else metric
        for metric in asked
    ]


def is_same(asked: Any, stands: Any, field: str = "") -> bool:
    """Return whether what is asked for, with the defaults of fields that are left out, is what stands."""
    if asked is None:
        return field in DERIVED or stands in (None, DEFAULTS.get(field), [], {}) or _is_default(stands)
    if isinstance(asked, Mapping) and isinstance(stands, Mapping) and field not in ("policy", "payload"):
        return all(is_same(asked.get(name), stands.get(name), name) for name in {*asked, *stands})
    if isinstance(asked, list | tuple) and isinstance(stands, list | tuple) and field != "payload":
        return len(asked) == len(stands) and all(map(is_same, asked, stands))
    return bool(asked == stands) or (field in TIMES and _instant(asked) == _instant(stands) is not None)


def _instant(time: Any) -> datetime | None:
    """Time that is meant; None where it is none, or has no zone."""
    try:
        read = time if isinstance(time, datetime) else datetime.fromisoformat(time)
    except (TypeError, ValueError):
        return None
    return None if read.tzinfo is None else read


def _is_default(stands: Any) -> bool:
    return isinstance(stands, Mapping) and is_same({}, stands)


def _as_document(standing: Experiment) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Experiment) if field.name not in STANDING]
    return {name: _plain(getattr(standing, name)) for name in names}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value

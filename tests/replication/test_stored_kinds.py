"""Samples of what was stored have everything that this build may store: each kind of event and each field."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from stored_keys import stored_files
from stored_parts import changes_in, declared, result_parts_in, written
from wire_parts import declared_parts, written_parts

from bandit_serve.results.state import FIXED, SOMETIMES

FILES = stored_files()
NEVER_WRITTEN = {
    "AlarmsState.looks": "only former builds wrote it",
    "AlarmsState.count": "it takes a hundred alarms",
    "Experiment.mode=allocate": "a default",
    "Metric.on_harm=report": "a default",
    "Metric.source=client": "a default",
    "MetricDefinition.source=client": "a default",
    "Stopping.mode=anytime": "a default",
}
CHANGES = {
    *("create", "start", "pause", "stop", "policy", "layer", "put", "delete", "add_metric"),
    *("add_arm", "hold_arm", "pause_arm", "resume_arm", "remove_arm"),
    *("register", "status", "promote", "rollback", "deploy", "undeploy", "patch", "prune"),
}
"""What `Change.what` and `ModelChanged.what` may be."""
HELP = "Leave a use of it in tests/support/write_stored_kinds.py, and write a sample with that."


def test_each_part_of_what_is_stored_is_in_a_sample() -> None:
    found = set().union(*map(written, FILES))
    assert declared() - found == set(NEVER_WRITTEN), HELP


def test_each_change_is_in_a_sample() -> None:
    assert set().union(*map(changes_in, FILES)) == CHANGES, HELP


def test_each_part_of_results_is_in_a_sample() -> None:
    assert {*FIXED, *SOMETIMES} <= set().union(*map(result_parts_in, FILES)), HELP


class Leaf(Struct, frozen=True, forbid_unknown_fields=True):
    word: Literal["near", "far"]
    mode: Literal["one", "two"] | UnsetType = UNSET
    more: tuple[str, ...] = ()


class Tree(Struct, frozen=True, array_like=True):
    leaves: dict[str, list[Leaf]]
    weight: float = 1.0
    note: str | None = None


def test_parts_are_found_in_types_and_in_bytes() -> None:
    assert declared_parts(Tree) == {
        *("Tree.leaves", "Tree.weight", "Tree.note", "Leaf.word", "Leaf.mode", "Leaf.more"),
        *("Leaf.word=near", "Leaf.word=far", "Leaf.mode=one", "Leaf.mode=two"),
    }
    tree = Tree({"a": [Leaf("near"), Leaf("near", "two")]}, 1.0, "n")
    assert written_parts(Tree, msgspec.msgpack.decode(msgspec.msgpack.encode(tree))) == {
        *("Tree.leaves", "Tree.note", "Leaf.word", "Leaf.word=near", "Leaf.mode", "Leaf.mode=two"),
    }
    assert written_parts(Tree, [{}, 2.0]) == {"Tree.leaves", "Tree.weight"}

"""Spans of the requests that this process answers, and of what it asks others for meanwhile.

Nothing is recorded before `record_into` names a recorder. Then a span is recorded where the request is in a trace that
its caller, or a draw, has sampled.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple

from bandit_serve.base.request_tags import RequestTags, current_tags

SpanKind = Literal["server", "client", "internal"]
Attributes = Mapping[str, str | int | bool]


class Span(NamedTuple):
    """Span that has ended. Times are Unix nanoseconds, ids hexadecimal; `parent_id` is None for a root."""

    name: str
    kind: SpanKind
    trace_id: str
    span_id: str
    parent_id: str | None
    began_ns: int
    ended_ns: int
    attributes: Attributes
    failed: bool


Recorder = Callable[[Span], None]

_recorder: Recorder | None = None


def record_into(recorder: Recorder | None) -> None:
    """Has all spans of this process recorded from now on; None ends that."""
    global _recorder
    _recorder = recorder


class ChildSpan:
    """Span below the request that the running code answers, for a `with` block. A block that raises has failed."""

    __slots__ = ("_attributes", "_began_ns", "_kind", "_name", "_recorder", "_tags", "span_id")

    def __init__(
        self, recorder: Recorder, tags: RequestTags, name: str, kind: SpanKind, attributes: Attributes
    ) -> None:
        self._recorder = recorder
        self._tags = tags
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self.span_id = secrets.token_hex(8)

    def __enter__(self) -> ChildSpan:
        self._began_ns = time.time_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tags = self._tags
        assert tags.trace_id is not None
        self._recorder(
            Span(
                self._name,
                self._kind,
                tags.trace_id,
                self.span_id,
                tags.span_id,
                self._began_ns,
                time.time_ns(),
                self._attributes,
                error is not None,
            )
        )


class _NoSpan:
    """Stands for a span that is not recorded."""

    span_id = None

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *error: object) -> None:
        pass


_NONE = _NoSpan()


def child_span(name: str, kind: SpanKind, **attributes: str | int | bool) -> ChildSpan | _NoSpan:
    """Span for a `with` block, below that of the current request; one that is not recorded has no `span_id`."""
    recorder = _recorder
    if recorder is None:
        return _NONE
    tags = current_tags()
    if tags is None or not tags.sampled:
        return _NONE
    return ChildSpan(recorder, tags, name, kind, attributes)

"""Fields of log records beside the common ones, for all that a piece of work logs and for all work that it begins."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

LOG_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("log_fields", default=MappingProxyType({}))
"""Fields of the running code's records, by name. Tasks and threads have those of the code that began them."""

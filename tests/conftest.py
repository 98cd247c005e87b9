"""Fixtures that several test modules share: real stores and real services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from services import ThrowawayService
from stores import ThrowawayStore


@pytest.fixture
def store() -> Iterator[ThrowawayStore]:
    """A real store of one test."""
    with ThrowawayStore() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    """A service with one worker on its private store, shared by the tests of a module: use names of your own."""
    with ThrowawayService(tmp_path_factory.mktemp("data")) as running:
        yield running

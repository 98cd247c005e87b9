"""Work that can not be cut into turns: it runs in a thread, and its error is raised where its result is read."""

from __future__ import annotations

import threading

import pytest

from bandit_serve.base.turns import HeavyWork


def test_the_result_is_taken_where_the_work_was_asked_for() -> None:
    heavy = HeavyWork(threading.get_ident)
    worker = threading.Thread(target=heavy.do)
    worker.start()
    worker.join()
    assert heavy.result not in (None, threading.get_ident())


def test_what_the_work_raised_is_raised_by_its_result() -> None:
    heavy = HeavyWork(lambda: 1 / 0)
    heavy.do()
    with pytest.raises(ZeroDivisionError):
        assert heavy.result

"""Ejected arms: each time twice as long, bounded, and never all arms."""

from __future__ import annotations

from bandit_serve.decisions.ejections import FIRST_EJECTION_S, MAX_EJECTION_S, Ejections

ALL = frozenset(range(3))


def test_each_time_is_twice_as_long_up_to_a_bound() -> None:
    ejections, now_s, lengths = Ejections(), 1_000.0, []
    for _ in range(10):
        assert ejections.eject(1, ALL, now_s)
        lengths.append(ejections.next_back_s(now_s) - now_s)
        now_s += lengths[-1]
        assert ejections.out(now_s - 0.001) == {1}
        assert ejections.out(now_s) == frozenset()
    assert lengths[:4] == [FIRST_EJECTION_S, 2 * FIRST_EJECTION_S, 4 * FIRST_EJECTION_S, 8 * FIRST_EJECTION_S]
    assert lengths[-1] == MAX_EJECTION_S
    assert ejections.count == 10


def test_an_arm_that_was_well_for_long_starts_anew() -> None:
    ejections = Ejections()
    ejections.eject(1, ALL, 0.0)
    ejections.eject(1, ALL, FIRST_EJECTION_S)
    back_s = 3 * FIRST_EJECTION_S
    assert ejections.next_back_s(FIRST_EJECTION_S) == back_s
    ejections.eject(1, ALL, back_s + MAX_EJECTION_S)
    assert ejections.next_back_s(back_s + MAX_EJECTION_S) == back_s + MAX_EJECTION_S + FIRST_EJECTION_S


def test_the_last_one_stays_and_one_that_is_out_is_not_taken_out_again() -> None:
    ejections = Ejections()
    assert ejections.eject(0, ALL, 0.0)
    assert not ejections.eject(0, ALL, 1.0)
    assert ejections.eject(1, ALL, 1.0)
    assert not ejections.eject(2, ALL, 2.0)
    assert ejections.out(2.0) == {0, 1}
    assert not Ejections().eject(0, frozenset([0]), 0.0)
    assert ejections.next_back_s(2.0) == FIRST_EJECTION_S
    assert ejections.count == 2


def test_arms_that_take_no_traffic_are_no_others() -> None:
    assert not Ejections().eject(0, frozenset([0]), 0.0)
    assert Ejections().eject(0, frozenset([0, 2]), 0.0)

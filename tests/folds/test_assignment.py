"""Sticky assignment: shares are kept, and units move as little as they can."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_assignment import nearest, siphash
from scipy.stats import chi2_contingency, chisquare

from bandit_serve.folds._assignment import Rendezvous

SALT = bytes(range(16))
N = 40_000
UNITS = [f"user-{i}" for i in range(N)]

# Aumasson and Bernstein 2012, appendix A, and the first of the authors' vectors.h (key 00 … 0f, text 00, 01, …).
VECTORS = {
    0: "310e0edd47db6f72",
    1: "fd67dc93c539f874",
    2: "5a4fa9d909806c0d",
    7: "37d1018bf50002ab",
    8: "6224939a79f5f593",
    15: "e545be4961ca29a1",
}


def split(salt: bytes, names: list[str], shares: list[float], n: int = N) -> NDArray[np.uint16]:
    rendezvous = Rendezvous(salt, names)
    return rendezvous.arms(rendezvous.hash_units(UNITS[:n]), np.array(shares))


def test_the_reference_is_siphash_2_4() -> None:
    for length, digest in VECTORS.items():
        assert siphash(SALT, bytes(range(length))).to_bytes(8, "little").hex() == digest


def test_units_are_hashed_with_siphash_2_4() -> None:
    generator = np.random.default_rng(2)
    for length in [*range(1, 34), 63, 64, 65, 127, 255, 256]:
        salt = generator.bytes(16)
        unit = "".join(chr(c) for c in generator.integers(0x20, 0x7F, length))
        assert Rendezvous(salt, ["a"]).hash_unit(unit) == siphash(salt, unit.encode())
    assert Rendezvous(SALT, ["a"]).hash_unit("žluťoučký 馬") == siphash(SALT, "žluťoučký 馬".encode())


def test_the_arm_is_the_nearest_by_the_formula() -> None:
    generator = np.random.default_rng(3)
    names = [f"arm{k}" for k in range(5)]
    rendezvous = Rendezvous(SALT, names)
    keys = [siphash(SALT, f"arm:{name}".encode()) for name in names]
    seen = set()
    for unit in UNITS[:500]:
        shares = generator.dirichlet(np.ones(5))
        hashed = rendezvous.hash_unit(unit)
        arm = rendezvous.arm(hashed, shares)
        assert arm == nearest(hashed, keys, shares.tolist())
        seen.add(arm)
    assert seen == set(range(5))


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.3, 0.2], [0.9, 0.05, 0.03, 0.02], [1.0], [0.1] * 10])
def test_units_go_where_the_shares_say(shares: list[float]) -> None:
    arms = split(SALT, [f"arm{k}" for k in range(len(shares))], shares)
    counts = np.bincount(arms, minlength=len(shares))
    assert len(shares) == 1 or chisquare(counts, np.array(shares) * N).pvalue > 1e-5


def moved(before: list[float], after: list[float]) -> NDArray[np.bool_]:
    names = [f"arm{k}" for k in range(len(before))]
    return np.asarray(split(SALT, names, before) != split(SALT, names, after))


@pytest.mark.parametrize(
    ("before", "after", "x"),
    [
        ([0.5, 0.5], [0.4, 0.6], 0.1),
        ([0.5, 0.5], [0.0, 1.0], 0.5),
        ([0.5, 0.3, 0.2], [0.3, 0.42, 0.28], 0.2),  # one share changes, the others keep their ratio
        ([0.25] * 4, [0.4, 0.2, 0.2, 0.2], 0.15),
        ([0.0, 0.5, 0.5], [0.1, 0.45, 0.45], 0.1),  # an arm comes
    ],
)
def test_one_changed_share_moves_exactly_as_many_units_as_it_must(
    before: list[float], after: list[float], x: float
) -> None:
    assert sum(abs(a - b) for a, b in zip(before, after, strict=True)) / 2 == pytest.approx(x)
    error = math.sqrt(x * (1 - x) / N)
    assert moved(before, after).mean() == pytest.approx(x, abs=4.5 * error)


def test_what_moves_goes_to_the_arms_that_grew() -> None:
    names = ["a", "b", "c"]
    before, after = split(SALT, names, [0.5, 0.3, 0.2]), split(SALT, names, [0.3, 0.42, 0.28])
    assert (before[before != after] == 0).all()
    assert (before != after).sum() > 1_000


def test_any_change_moves_at_most_twice_the_variation_over_one_plus_it() -> None:
    generator = np.random.default_rng(4)
    variations = []
    for _ in range(25):
        before, after = generator.dirichlet(np.ones(5)), generator.dirichlet(np.ones(5))
        x = float(np.abs(before - after).sum() / 2)
        share = float(moved(before.tolist(), after.tolist()).mean())
        error = 4.5 * math.sqrt(0.25 / N)
        assert x - error <= share <= 2 * x / (1 + x) + error
        variations.append(x)
    assert max(variations) - min(variations) > 0.2


def test_experiments_are_independent_of_each_other() -> None:
    names, shares = ["a", "b", "c"], [0.5, 0.3, 0.2]
    one, other = split(SALT, names, shares), split(SALT[::-1], names, shares)
    table = np.zeros((3, 3))
    np.add.at(table, (one, other), 1)
    assert table.min() > 0
    assert chi2_contingency(table).pvalue > 1e-5


def test_an_arm_is_its_name_and_not_its_position() -> None:
    names, shares = ["control", "b", "c"], [0.5, 0.3, 0.2]
    order = [2, 0, 1]
    one = np.array(names)[split(SALT, names, shares)]
    other = np.array(names)[order][split(SALT, [names[k] for k in order], [shares[k] for k in order])]
    assert (one == other).all()


def test_a_unit_stays_where_it_is_after_a_restart() -> None:
    """Known values: another build, machine or order of units must give the same."""
    assert (
        split(SALT, ["a", "b"], [0.5, 0.5], 24).tolist() == split(SALT, ["a", "b"], [0.5, 0.5])[:24].tolist()
    )
    keys = [siphash(SALT, b"arm:a"), siphash(SALT, b"arm:b")]
    expected = [nearest(siphash(SALT, unit.encode()), keys, [0.5, 0.5]) for unit in UNITS[:24]]
    assert split(SALT, ["a", "b"], [0.5, 0.5], 24).tolist() == expected


def test_an_arm_without_a_share_gets_no_unit() -> None:
    arms = split(SALT, ["a", "b", "c"], [0.6, 0.0, 0.4])
    assert set(arms.tolist()) == {0, 2}


def test_many_are_what_each_is() -> None:
    rendezvous = Rendezvous(SALT, ["a", "b", "c"])
    shares = np.array([0.2, 0.3, 0.5])
    hashes = rendezvous.hash_units(UNITS[:300])
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == [rendezvous.hash_unit(unit) for unit in UNITS[:300]]
    arms = rendezvous.arms(hashes, shares)
    assert arms.dtype == np.uint16
    assert arms.tolist() == [rendezvous.arm(hashed, shares) for hashed in hashes.tolist()]
    assert rendezvous.hash_units([]).shape == rendezvous.arms(hashes[:0], shares).shape == (0,)


def test_a_thousand_arms() -> None:
    names = [f"arm{k}" for k in range(1_000)]
    shares = np.random.default_rng(5).dirichlet(np.ones(1_000))
    arms = split(SALT, names, shares.tolist())
    most = np.argsort(shares)[-50:]
    counts = np.bincount(arms, minlength=1_000)
    expected = np.append(shares[most], 1 - shares[most].sum()) * N
    assert chisquare(np.append(counts[most], N - counts[most].sum()), expected).pvalue > 1e-5


@pytest.mark.parametrize("unit", ["", "a\x00b", "a\nb", "\x7f", "\x85", "x" * 257, "é" * 129, "\ud800"])
def test_what_is_no_name_from_outside_is_refused(unit: str) -> None:
    rendezvous = Rendezvous(SALT, ["a"])
    with pytest.raises(ValueError):  # noqa: PT011
        rendezvous.hash_unit(unit)
    with pytest.raises(ValueError):  # noqa: PT011
        rendezvous.hash_units(["fine", unit])


@pytest.mark.parametrize("unit", [None, 1, b"bytes"])
def test_what_is_no_text_is_refused(unit: object) -> None:
    rendezvous = Rendezvous(SALT, ["a"])
    with pytest.raises(TypeError):
        rendezvous.hash_unit(unit)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        rendezvous.hash_units([unit])  # type: ignore[list-item]


def test_wrong_shapes_are_refused() -> None:
    rendezvous = Rendezvous(SALT, ["a", "b"])
    hashes = rendezvous.hash_units(["u"])
    for shares in (np.ones(1), np.ones(3), np.ones(0)):
        with pytest.raises(ValueError, match="share"):
            rendezvous.arm(1, shares)
        with pytest.raises(ValueError, match="share"):
            rendezvous.arms(hashes, shares)
    with pytest.raises(ValueError, match="salt"):
        Rendezvous(b"short", ["a"])
    with pytest.raises(ValueError, match="dtype"):
        rendezvous.arm(1, np.ones(2, np.float32))


def test_read_only_arrays_work() -> None:
    rendezvous = Rendezvous(SALT, ["a", "b"])
    shares, hashes = np.array([0.5, 0.5]), rendezvous.hash_units(["u", "v"])
    shares.flags.writeable = hashes.flags.writeable = False
    assert rendezvous.arms(hashes, shares).tolist() == [rendezvous.arm(h, shares) for h in hashes.tolist()]

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidInput
from bandit_serve.models._ids import MAX_ID_BYTES, GrowingIds, IdTable

IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60).filter(
    lambda text: len(text.encode()) <= MAX_ID_BYTES
)


def table(*texts: bytes) -> IdTable:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return IdTable(np.frombuffer(b"".join(texts), np.uint8), offsets)


@pytest.mark.parametrize("length", [*range(1, 41), 63, 64, 65, 256])
def test_ids_that_differ_in_one_character_are_told_apart(length):
    plain = "a" * length
    others = [plain[:at] + "b" + plain[at + 1 :] for at in range(length)]
    made = IdTable.of(others)
    assert made.row(plain) == -1
    assert [made.name(made.row(other)) for other in others] == others


@given(st.lists(IDS, max_size=80), st.lists(IDS, max_size=20))
def test_a_row_is_the_place_of_an_id_in_the_order_of_code_points(ids, others):
    made = IdTable.of(ids)
    expected = sorted(set(ids))
    assert [made.name(row) for row in range(len(made))] == expected
    assert made.rows(expected).tolist() == list(range(len(expected)))
    for other in others:
        assert made.row(other) == (expected.index(other) if other in expected else -1)


def test_a_hundred_thousand_ids_are_all_found_and_no_others():
    names = [f"item-{number * 7}" for number in range(100_000)]
    made = IdTable.of(reversed(names))
    assert made.rows(sorted(names)).tolist() == list(range(100_000))
    assert (made.rows([f"item-{number * 7 + 1}" for number in range(100_000)]) == -1).all()
    assert made.nbytes == made.text.nbytes + made.offsets.nbytes + made.slots.nbytes


@given(st.integers())
def test_an_int_is_its_decimal_text(number):
    made = IdTable.of([str(number), "x"])
    assert made.name(made.row(number)) == str(number)
    assert IdTable.of(["x"]).row(number) == -1


def test_numpy_integers_are_ints():
    made = IdTable.of(["12", "-3"])
    assert [made.row(np.int32(12)), made.row(np.int64(-3)), made.row(np.uint8(12))] == [made.row("12"), 0, 1]
    assert made.rows(np.array([12, -3, 4])).tolist() == [1, 0, -1]
    assert made.rows(np.array(["12", "zz"])).tolist() == [1, -1]


@pytest.mark.parametrize("key", [1.0, True, b"12", None, (1,)])
def test_other_types_are_not_ids(key):
    with pytest.raises(InvalidInput, match="str or an int"):
        IdTable.of(["12"]).row(key)
    with pytest.raises(InvalidInput, match="str or an int"):
        IdTable.of(["12"]).rows([key])


def test_a_lone_surrogate_is_unknown_and_cannot_be_an_id():
    assert IdTable.of(["a"]).row("\ud800") == -1
    with pytest.raises(InvalidInput, match="surrogate"):
        IdTable.of(["a", "\ud800"])


def test_an_empty_table_knows_nothing():
    made = IdTable.of([])
    assert len(made) == 0
    assert made.row("") == -1
    with pytest.raises(IndexError):
        made.name(0)


@pytest.mark.parametrize("row", [-1, 1, 2**40])
def test_a_row_that_does_not_exist_has_no_name(row):
    with pytest.raises(IndexError):
        IdTable.of(["a"]).name(row)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ((b"b", b"a"), "not after"),
        ((b"a", b"a"), "not after"),
        ((b"ab", b"a"), "not after"),
        ((b"a", b""), "1 to 256 bytes"),
        ((b"a" * 257,), "1 to 256 bytes"),
        ((b"a\n",), "control"),
        ((b"a\x7f",), "control"),
        ((b"\xc2\x9f",), "control"),
        ((b"\xff",), "UTF-8"),
        ((b"\xc3", b"\xa4"), "UTF-8"),
        ((b"\xed\xa0\x80",), "UTF-8"),
    ],
)
def test_text_that_is_not_ascending_ids_is_refused(texts, why):
    with pytest.raises(InvalidInput, match=why):
        table(*texts)


def test_the_longest_id_and_what_is_near_a_control_character_are_taken():
    assert len(table(b"a" * 256)) == 1
    assert len(IdTable.of([" ", "\u00a0", "Â", "~"])) == 4


@pytest.mark.parametrize(
    "offsets",
    [
        [],
        [0],
        [0, 3],
        [1, 2],
        [0, -1, 2],
        [0, 2**62, 2],
        [0, 2, 1, 2],
        [0, 1, 1, 2],
        [-(2**63), 2],
        [0, 2, 2],
    ],
)
def test_offsets_that_do_not_describe_the_text_are_refused(offsets):
    with pytest.raises(InvalidInput):
        IdTable(np.frombuffer(b"ab", np.uint8), np.array(offsets, np.int64))


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        (np.zeros(2, np.int8), np.array([0, 2])),
        (b"ab", np.array([0, 2])),
        (np.full(4, 97, np.uint8)[::2], np.array([0, 2])),
        (np.full((1, 2), 97, np.uint8), np.array([0, 2])),
        (np.full(2, 97, np.uint8), np.array([0, 2], np.int32)),
        (np.full(2, 97, np.uint8), np.array([0, 2], ">i8")),
        (np.full(2, 97, np.uint8), [0, 2]),
        (None, None),
    ],
)
def test_other_arrays_are_refused(text, offsets):
    with pytest.raises(InvalidInput, match="contiguous vector"):
        IdTable(text, offsets)


def test_what_the_table_reads_cannot_be_changed_from_outside():
    offsets = np.array([0, 1], np.int64)
    made = IdTable(np.array([97], np.uint8), offsets)
    offsets[1] = 2**40
    assert made.row("a") == 0
    with pytest.raises(ValueError, match="read-only"):
        made.offsets[1] = 5


@given(st.lists(st.one_of(st.text(max_size=6), st.integers(-(10**20), 10**20)), max_size=200))
def test_growing_ids_are_a_dictionary(keys):
    ids, expected = GrowingIds(), {}
    for key in keys:
        text = str(key)
        try:
            row = ids.add(key)
        except InvalidInput:
            assert not 1 <= len(text.encode()) <= 256 or any(
                unicodedata.category(one) == "Cc" for one in text
            )
            continue
        assert row == expected.setdefault(text, len(expected))
    assert [ids.name(row) for row in range(len(ids))] == list(expected)
    assert all(ids.row(text) == row for text, row in expected.items())
    assert ids.row("not there, as it is too long") == -1
    table, order = ids.table()
    assert [table.name(row) for row in range(len(table))] == sorted(expected, key=str.encode)
    assert [ids.name(row) for row in order] == sorted(expected, key=str.encode)
    again = GrowingIds.of(table)
    again.add("one more")
    assert [again.name(row) for row in range(len(table))] == sorted(expected, key=str.encode)
    assert again.row("one more") == len(table)


def test_growing_ids_grow():
    ids = GrowingIds()
    for number in range(200_000):
        assert ids.add(f"an id {number}") == number
    assert all(ids.row(f"an id {number}") == number for number in range(0, 200_000, 997))
    assert ids.nbytes < 200_000 * (2 * 16 + 2 * 8 + 4 * 4 + 8)
    with pytest.raises(IndexError):
        ids.name(200_000)
    for wrong in ("", "x" * 257, "a\n", "\ud800", 1.5, None, True, b"x"):
        with pytest.raises(InvalidInput):
            ids.add(wrong)
    assert len(ids) == 200_000

"""Contract of model families. Each family of the table is tested."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_factorization import top_k
from scale import scaled

from bandit_serve.errors import InvalidArtifact, InvalidInput, NotFound
from bandit_serve.models import FAMILIES, Artifact, Model, artifact, factorized, load_model
from bandit_serve.training.ratings import synthetic_ratings

RATINGS = synthetic_ratings(seed=3, n_users=60, n_items=120, n_ratings=2_000)
ITEMS = sorted(set(RATINGS.items.tolist()))
USERS = sorted(set(RATINGS.users.tolist()))
FITTED = {
    name: family().fit(RATINGS.users, RATINGS.items, RATINGS.values) for name, family in FAMILIES.items()
}
UNFITTED_CALLS = {
    "predict": lambda model: model.predict("u", "i"),
    "predict_many": lambda model: model.predict_many(["u"], ["i"]),
    "predict_items": lambda model: model.predict_items("u", ["i"]),
    "top_k": lambda model: model.top_k("u"),
    "save": lambda model: model.save("never"),
}


@pytest.fixture(params=sorted(FAMILIES))
def model(request) -> Model:
    return FITTED[request.param]


def test_it_is_a_model_under_its_own_name(model):
    assert isinstance(model, Model)
    assert FAMILIES[model.family] is type(model)
    assert (model.n_users, model.n_items) == (len(USERS), len(ITEMS))
    assert model.nbytes > 8 * model.n_items


def test_all_ways_to_a_score_give_the_same_bits(model):
    users, items = RATINGS.users[:300].tolist(), RATINGS.items[300:600].tolist()
    many = model.predict_many(users, items)
    assert many.dtype == np.float64
    assert len(set(many.tolist())) > 20
    assert many.tolist() == [model.predict(user, item) for user, item in zip(users, items, strict=True)]
    assert model.predict_items("u5", items).tolist() == [model.predict("u5", item) for item in items]
    assert model.top_k("u5", 7) == [(name, model.predict("u5", name)) for name, _ in model.top_k("u5", 7)]
    assert model.predict_many(np.array(users), np.array(items)).tolist() == many.tolist()


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.sampled_from([*USERS, "never seen", ""]),
    st.integers(1, len(ITEMS) + 5),
    st.lists(st.sampled_from([*ITEMS, "never seen"]), max_size=40),
)
def test_top_k_is_the_head_of_all_items_by_score_then_id(family, user, k, exclude):
    model = FITTED[family]
    scores = dict(zip(ITEMS, model.predict_items(user, ITEMS).tolist(), strict=True))
    assert model.top_k(user, k, exclude) == top_k(scores, k, exclude)
    assert model.top_k(user, k=k, exclude=set(exclude)) == top_k(scores, k, exclude)


def test_top_k_has_a_default_and_an_end(model):
    assert len(model.top_k("u1")) == 10
    assert len(model.top_k("u1", 2**40)) == len(ITEMS)
    assert model.top_k("u1", 3, exclude=ITEMS) == []
    assert model.top_k("u1", 1, exclude=iter([1, "x"])) == model.top_k("u1", 1)


def test_the_never_seen_are_scored_and_not_known(model):
    for user, item in [("new", ITEMS[0]), (USERS[0], "new"), ("new", "new"), ("\ud800", ""), (-5, 10**30)]:
        assert math.isfinite(model.predict(user, item))
        assert model.predict_items(user, [item]).tolist() == [model.predict(user, item)]
    assert model.knows(USERS[0], ITEMS[0])
    assert not model.knows(USERS[0], "new")


def test_nothing_asked_is_nothing_told(model):
    assert model.predict_items("u1", []).shape == (0,)
    assert model.predict_many([], []).shape == (0,)


def test_int_and_text_ids_are_one(model):
    users, items = np.arange(50) % 7, np.arange(50) % 13
    values = np.arange(50) % 5
    by_int = type(model)().fit(users, items, values)
    by_text = type(model)().fit([str(user) for user in users], items.astype(str), values.tolist())
    mixed = type(model)().fit([str(u) if u % 2 else int(u) for u in users], list(items), values.astype(float))
    for other in (by_text, mixed):
        assert other.top_k("3", 13) == by_int.top_k(3, 13)
    assert by_int.predict(3, np.int16(12)) == by_int.predict("3", "12")
    assert by_int.knows(6, 12)
    assert not by_int.knows("6", "012")


@pytest.mark.parametrize("wrong", [1.5, True, None, b"u1", ["u1"]])
def test_an_id_of_another_type_is_refused(model, wrong):
    for call in (
        lambda: model.predict("u1", wrong),
        lambda: model.predict_items("u1", [wrong]),
        lambda: model.predict_many(["u1"], [wrong]),
        lambda: model.top_k("u1", exclude=[wrong]),
        lambda: type(model)().fit([wrong], ["i"], [1]),
        lambda: type(model)().fit(["u", "v"], ["i", wrong], [1, 2]),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_calls_that_make_no_sense_are_refused(model):
    with pytest.raises(InvalidInput, match="k must be"):
        model.top_k("u1", 0)
    with pytest.raises(InvalidInput, match="not one id"):
        model.top_k("u1", exclude="i1")
    with pytest.raises(InvalidInput, match="as many"):
        model.predict_many(["u1", "u2"], ["i1"])


@pytest.mark.parametrize(
    "columns",
    [
        ([], [], []),
        (["u"], ["i"], []),
        (["u"], ["i", "j"], [1]),
        (["u", "v"], ["i"], [1]),
        (["u"], ["i"], [math.nan]),
        (["u"], ["i"], [math.inf]),
        (["u"], ["i"], [1e300]),
        (["u"], ["i"], ["good"]),
        (["u"], ["i"], [[1]]),
        (["u"], ["i"], [[1], [1, 2]]),
        (["u"], ["i"], [None]),
        (["u"], ["i"], [1j]),
        (["u"], ["i"], 1.0),
        ("u", ["i"], [1]),
        (5, ["i"], [1]),
        (None, ["i"], [1]),
        ([""], ["i"], [1]),
        (["u\n"], ["i"], [1]),
        (["u" * 257], ["i"], [1]),
        (["\ud800"], ["i"], [1]),
        (np.zeros((1, 1), int), ["i"], [1]),
        (np.zeros(()), ["i"], [1]),
        (np.zeros(1), ["i"], [1]),
        (np.zeros(1, bool), ["i"], [1]),
        (np.zeros(1, "datetime64[s]"), ["i"], [1]),
    ],
)
def test_columns_that_are_not_ratings_are_refused(model, columns):
    with pytest.raises(InvalidInput):
        type(model)().fit(*columns)


def test_read_only_and_strided_columns_work(model):
    users, items = np.arange(40)[::2] % 5, np.arange(20) % 7
    values = np.arange(20, dtype=np.float16)
    for array in (users, items, values):
        array.flags.writeable = False
    assert type(model)().fit(users, items, values).n_users == 5


@pytest.mark.parametrize("call", sorted(UNFITTED_CALLS))
def test_an_unfitted_model_says_so(model, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="not fitted"):
        UNFITTED_CALLS[call](type(model)())
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_fitted_once(model):
    before = model.top_k("u1", 5)
    with pytest.raises(InvalidInput, match="fitted already"):
        model.fit(["u"], ["i"], [1.0])
    assert model.top_k("u1", 5) == before


def test_what_is_saved_is_what_is_loaded(model, tmp_path):
    model.save(tmp_path / "m.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    mapped = Artifact.map(tmp_path / "m.safetensors")
    for again in (type(model).load(tmp_path / "m.safetensors"), load_model(mapped)):
        assert type(again) is type(model)
        assert again.parameters == model.parameters
        assert (again.n_users, again.n_items) == (model.n_users, model.n_items)
        for user in ("u1", "u7", "new"):
            assert again.top_k(user, 200) == model.top_k(user, 200)
    # Saving a loaded model over the file that it is mapped from must not pull the file from under it.
    again.save(tmp_path / "m.safetensors")
    assert again.top_k("u1", 20) == model.top_k("u1", 20)


def test_equal_models_are_equal_files(model, tmp_path):
    digests = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        type(model)().fit(RATINGS.users, RATINGS.items, RATINGS.values).save(path)
        digests.add(Artifact.map(path).sha256)
    assert len(digests) == 1


def test_a_file_that_is_not_there_is_not_found(model, tmp_path):
    with pytest.raises(NotFound):
        type(model).load(tmp_path / "none.safetensors")


def test_another_family_and_an_unknown_one_are_refused(model, tmp_path):
    for name, match in [("other", "must be one of"), (model.family, "no tensor")]:
        artifact.write(tmp_path / "x", name, model.parameters, {"a": np.zeros(3)})
        with pytest.raises(InvalidArtifact, match=match):
            load_model(Artifact.map(tmp_path / "x"))
    artifact.write(tmp_path / "x", "other", {}, {"a": np.zeros(3)})
    with pytest.raises(InvalidArtifact, match="family is not"):
        type(model).load(tmp_path / "x")


def test_parameters_of_another_family_are_refused(model, tmp_path):
    for parameters in ({**model.parameters, "surprise": 1}, {"surprise": []}):
        artifact.write(tmp_path / "x", model.family, parameters, {"a": np.zeros(3)})
        with pytest.raises(
            InvalidArtifact, match=r"no parameter 'surprise'|parameters are not this family's"
        ):
            load_model(Artifact.map(tmp_path / "x"))


@pytest.mark.slow
@pytest.mark.parametrize("searchable", [False, True], ids=["plain", "with what searches need"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_mutated_files_are_refused_or_load_a_model_that_scores(family, searchable, tmp_path, monkeypatch):
    if searchable:
        monkeypatch.setattr(factorized, "SEARCHABLE", 1)
    small = FAMILIES[family]().fit(["a", "b", "ä", "a"], ["x", "y", "x", "z"], [1, 2, 3, 4])
    small.save(tmp_path / "small")
    content = (tmp_path / "small").read_bytes()
    random = np.random.default_rng(11)
    refused = loaded = 0
    reasons = set()
    tracemalloc.start()
    for _ in range(scaled(1_500, 10_000)):
        mutated = bytearray(content)
        kind = random.integers(5)
        at = int(random.integers(len(content)))
        if kind == 0:
            mutated[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            for place in random.integers(0, len(content), 6):
                mutated[place] = int(random.integers(256))
        elif kind == 2:
            del mutated[at:]
        elif kind == 3:
            end = at + int(random.integers(1, 40))
            mutated[at:end] = mutated[: int(random.integers(0, 40))]
        else:
            # In the header, where a digit or a quote changes what everything else means.
            at = int(random.integers(int.from_bytes(content[:8], "little") + 8))
            mutated[at] = int(random.choice(list(b'0123456789"{}[],:-.eFIU')))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            model = load_model(Artifact(bytes(mutated)))
        except InvalidArtifact as error:
            refused += 1
            reasons.add(str(error))
        else:
            loaded += 1
            ids = ["a", "ä", "x", "z", "nobody"]
            assert all(math.isfinite(score) for user in ids for score in model.predict_items(user, ids))
            assert all(math.isfinite(score) for _, score in model.top_k("a", 5))
        assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
    tracemalloc.stop()
    assert all(reason[0].isupper() and reason.endswith(".") for reason in reasons)
    assert refused > 500
    assert loaded > 10
    assert len(reasons) > 10


MORE = synthetic_ratings(seed=4, n_users=70, n_items=140, n_ratings=400)


def fresh(model) -> Model:
    """A copy of its own."""
    return type(model)(**model.parameters).fit(RATINGS.users, RATINGS.items, RATINGS.values)


def content(model, tmp_path) -> bytes:
    model.save(tmp_path / "content")
    return (tmp_path / "content").read_bytes()


def test_one_by_one_or_many_at_once_it_learns_the_same_bits(model, tmp_path):
    at_once = fresh(model).partial_fit(MORE.users, MORE.items, MORE.values)
    one_by_one, in_groups = fresh(model), fresh(model)
    for user, item, value in zip(MORE.users.tolist(), MORE.items.tolist(), MORE.values.tolist(), strict=True):
        one_by_one.partial_fit(user, item, value)
    for start in range(0, 400, 150):
        rows = slice(start, start + 150)
        in_groups.partial_fit(MORE.users[rows], MORE.items[rows], MORE.values[rows])
        in_groups.predict("u1", "i1"), in_groups.top_k("u1")
    expected = content(at_once, tmp_path)
    assert content(one_by_one, tmp_path) == content(in_groups, tmp_path) == expected
    assert expected != content(fresh(model), tmp_path)


def test_a_loaded_model_goes_on_as_if_it_had_stayed(model, tmp_path):
    stayed, path = fresh(model), tmp_path / "m"
    stayed.save(path)
    again = type(model).load(path)
    for half in (slice(0, 200), slice(200, 400)):
        stayed.partial_fit(MORE.users[half], MORE.items[half], MORE.values[half])
        again.partial_fit(MORE.users[half], MORE.items[half], MORE.values[half])
        again.save(path)
        again = type(model).load(path)
    pairs = MORE.users.tolist(), MORE.items.tolist()
    np.testing.assert_allclose(again.predict_many(*pairs), stayed.predict_many(*pairs), rtol=0, atol=1e-9)
    assert again.top_k("u1", 200) == stayed.top_k("u1", 200)


def test_the_new_are_taken_in_and_all_ways_to_a_score_agree(model):
    learning = fresh(model).partial_fit(MORE.users, MORE.items, MORE.values)
    learning.partial_fit("someone new", "something new", 5)
    learning.partial_fit(["other", 7], ["something new", "i1"], np.array([4, 1]))
    assert learning.n_items == len({*ITEMS, *MORE.items.tolist(), "something new"})
    assert learning.knows("someone new", "something new")
    users, items = [*USERS[:30], "someone new", "nobody"], [*ITEMS[:31], "something new"]
    scores = learning.predict_many(users, items)
    assert scores.tolist() == [learning.predict(user, item) for user, item in zip(users, items, strict=True)]
    every = sorted({*ITEMS, *MORE.items.tolist(), "something new"})
    for user in ("u1", "someone new", "nobody"):
        of_all = dict(zip(every, learning.predict_items(user, every).tolist(), strict=True))
        assert learning.top_k(user, 25, exclude=ITEMS[:5]) == top_k(of_all, 25, ITEMS[:5])


def test_it_may_learn_from_nothing(model):
    learning = type(model)(**model.parameters)
    for _ in range(3):
        learning.partial_fit(RATINGS.users[:500], RATINGS.items[:500], RATINGS.values[:500])
    assert learning.n_users == len(set(RATINGS.users[:500].tolist()))
    assert math.isfinite(learning.predict("u1", "i1"))


@pytest.mark.parametrize(
    "rating",
    [
        ("u", "i", math.nan),
        ("u", "i", 1e300),
        ("u", "", 1.0),
        ("", "i", 1.0),
        ("u", "i\n", 1.0),
        (1.5, "i", 1),
    ],
)
def test_what_is_not_a_rating_teaches_nothing(model, tmp_path, rating):
    learning = fresh(model)
    before = content(learning, tmp_path)
    user, item, value = rating
    for call in (
        lambda: learning.partial_fit(user, item, value),
        lambda: learning.partial_fit(["u1", user], ["i1", item], [3.0, value]),
        lambda: learning.partial_fit(["u1", "u2"], ["i1"], [3.0]),
        lambda: learning.partial_fit(["u1"], ["i1"], ["3"]),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert content(learning, tmp_path) == before


def test_no_stream_of_ratings_leads_to_what_is_not_finite(model):
    learning, random = type(model)(**model.parameters), np.random.default_rng(1)
    for value in random.choice([1e6, -1e6, 0.0, 1e-30], 3_000):
        learning.partial_fit(f"u{random.integers(5)}", f"i{random.integers(5)}", float(value))
    users, items = np.divmod(np.arange(25), 5)
    scores = learning.predict_many([f"u{n}" for n in users], [f"i{n}" for n in items])
    assert np.isfinite(scores).all()


def test_confidence_grows_with_what_was_seen(model):
    known, unknown = model.confidence(USERS[0], ITEMS[0]), model.confidence("new", "new")
    assert 0.0 == unknown < known < 1.0
    learning = fresh(model)
    for _ in range(40):
        learning.partial_fit(USERS[0], ITEMS[0], 3.0)
    assert known < learning.confidence(USERS[0], ITEMS[0]) < 1.0


def test_only_those_among_are_ranked(model):
    among = [*ITEMS[3:40:3], "never seen"]
    scores = dict(zip(among[:-1], model.predict_items("u1", among[:-1]).tolist(), strict=True))
    assert model.top_k("u1", 50, among=among) == top_k(scores, 50, ())
    assert model.top_k("u1", 50, [ITEMS[3]], among=iter(among)) == top_k(scores, 50, [ITEMS[3]])
    assert model.top_k("u1", among=[]) == []
    with pytest.raises(InvalidInput, match="not one id"):
        model.top_k("u1", among="i1")


def test_many_rankings_are_each_of_them(model):
    users, exclude = [*USERS[:9], "new"], [ITEMS[n : n + 5] for n in range(10)]
    assert model.top_k_many(users, 7) == [model.top_k(user, 7) for user in users]
    assert model.top_k_many(users, 7, exclude) == [
        model.top_k(u, 7, e) for u, e in zip(users, exclude, strict=True)
    ]
    assert model.top_k_many([]) == []
    for wrong in (lambda: model.top_k_many(users, 7, exclude[1:]), lambda: model.top_k_many(users, 0)):
        with pytest.raises(InvalidInput):
            wrong()


def test_a_target_is_the_rating_where_scores_are_ratings(model):
    if model.scores_are_ratings:
        assert [model.target(value) for value in (-1.0, 0.5, 4.0, 1e12)] == [-1.0, 0.5, 4.0, 1e12]
    errors = [model.target(value) for value in RATINGS.values.tolist()] - model.predict_many(
        RATINGS.users.tolist(), RATINGS.items.tolist()
    )
    assert np.isfinite(errors).all()


def test_features_are_refused_where_none_are_taken(model):
    if model.takes_features:
        return
    for call in (
        lambda: model.predict("u1", "i1", {"hour": 3}),
        lambda: model.predict_items("u1", ["i1"], {"hour": 3}),
        lambda: model.top_k("u1", features={"hour": 3}),
        lambda: fresh(model).partial_fit("u1", "i1", 1.0, {"hour": 3}),
        lambda: type(model)().fit(["u"], ["i"], [1], item_features={"i": {"a": 1}}),
    ):
        with pytest.raises(InvalidInput, match="takes no features"):
            call()


def test_validation_keeps_the_best_epoch(model):
    if "learning_rate" not in model.parameters:
        return
    calls: list[float] = []
    held = (MORE.users, MORE.items, MORE.values)
    long = type(model)(n_epochs=60, regularization=0.0)
    long.fit(
        RATINGS.users,
        RATINGS.items,
        RATINGS.values,
        validation=held,
        patience=4,
        on_epoch=lambda *a: calls.append(a[2]),
    )
    best = int(np.argmin(calls))
    assert len(calls) == best + 1 + 4 < 60
    errors = long.predict_many(MORE.users.tolist(), MORE.items.tolist()) - MORE.values
    assert math.sqrt((errors**2).mean()) == pytest.approx(calls[best], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "spoil", "match"),
    [
        ("order", lambda part: part[:-1], "does not fit"),
        ("order", lambda part: np.zeros_like(part), "not an order"),
        ("order", lambda part: part + np.int32(1), "not an order"),
        ("order", lambda part: part - np.int32(1), "not an order"),
        ("codes", lambda part: part[:-32], "does not fit"),
        ("scales", lambda part: np.append(part, np.float32(1)), "does not fit"),
        ("norms", lambda part: part.astype(np.float64), "must be F32"),
        ("biases", None, "has no tensor top_k_biases"),
    ],
)
def test_what_searches_need_is_checked(name, spoil, match, tmp_path, monkeypatch):
    monkeypatch.setattr(factorized, "SEARCHABLE", 1)
    fitted = FAMILIES["matrix_factorization"](4, n_epochs=2).fit(RATINGS.users, RATINGS.items, RATINGS.values)
    fitted.save(tmp_path / "m")
    file = Artifact.map(tmp_path / "m")
    tensors = {
        each: np.frombuffer(
            file.buffer,
            tensor.dtype,
            offset=tensor.begin,
            count=(tensor.end - tensor.begin) // tensor.dtype.itemsize,
        ).reshape(tensor.shape)
        for each, tensor in file.tensors.items()
    }
    if spoil is None:
        del tensors[f"top_k_{name}"]
    else:
        tensors[f"top_k_{name}"] = spoil(tensors[f"top_k_{name}"])
    artifact.write(tmp_path / "spoiled", file.family, file.parameters, tensors)
    with pytest.raises(InvalidArtifact, match=match):
        load_model(Artifact.map(tmp_path / "spoiled"))

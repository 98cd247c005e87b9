import pytest

from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.registry.catalogue import find_versions, parameters_of, prunable
from bandit_serve.registry.registry import RegisteredModel, Version


def version(number, status="staged", family="bias", **more):
    fields = {"created_ms": number, "updated_ms": number, "sha256": f"{number:064}", "size": 10, **more}
    return Version(model="m", version=f"v{number}", status=status, family=family, **fields)


MODEL = RegisteredModel(
    "m",
    {
        one.version: one
        for one in (
            version(1, "retired", metrics={"rmse": 0.9}),
            version(2, "production", metrics={"rmse": 0.8, "recall@10": 0.1}, metadata={"by": "Ann"}),
            version(3, "failed", reason="it diverged"),
            version(4, "staged", family="popularity", metrics={"rmse": 0.85}),
            version(5, "shadow", metrics={"rmse": 0.85}),
        )
    },
    production="v2",
    former=("v1",),
)


def names(**query):
    return [one.version for one in find_versions(MODEL, **query).versions]


def test_versions_are_found_by_what_they_are():
    assert names() == ["v5", "v4", "v3", "v2", "v1"]
    assert names(statuses=["retired", "failed"]) == ["v3", "v1"]
    assert names(statuses=["staged"], limit=1) == ["v4"]
    assert names(family="popularity") == ["v4"]
    assert names(metrics=["rmse<0.9", "rmse >= 0.85"]) == ["v5", "v4"]
    assert names(metrics=["recall@10>0"]) == ["v2"]
    assert names(text="ann") == ["v2"]
    assert names(text="diverged") == ["v3"]
    assert names(text="none such") == []


def test_versions_are_sorted():
    assert names(sort="created") == ["v1", "v2", "v3", "v4", "v5"]
    assert names(sort="-version") == ["v5", "v4", "v3", "v2", "v1"]
    assert names(sort="rmse") == ["v2", "v4", "v5", "v1", "v3"]
    assert names(sort="-rmse") == ["v1", "v5", "v4", "v2", "v3"]


def test_pages_are_all_of_them_once():
    versions, after = [], None
    for _ in range(3):
        page = find_versions(MODEL, limit=2, after=after)
        assert page.total == 5
        versions += [one.version for one in page.versions]
        after = page.after
    assert after is None
    assert versions == ["v5", "v4", "v3", "v2", "v1"]


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ({"metrics": ["rmse"]}, InvalidInput),
        ({"metrics": ["rmse<a"]}, InvalidInput),
        ({"metrics": ["<1"]}, InvalidInput),
        ({"statuses": ["staged", "lost"]}, InvalidInput),
        ({"family": "forest"}, InvalidInput),
        ({"limit": 0}, InvalidInput),
        ({"limit": 1_001}, InvalidInput),
        ({"after": "v9"}, NotFound),
        ({"after": "v1", "statuses": ["staged"]}, NotFound),
    ],
)
def test_questions_that_make_no_sense_are_refused(query, error):
    with pytest.raises(error):
        find_versions(MODEL, **query)


def test_parameters_are_those_that_training_recorded():
    assert parameters_of(version(1, metadata={"training": {"parameters": {"a": 1}}})) == {"a": 1}
    assert parameters_of(version(1, metadata={"training": 5})) == {}
    assert parameters_of(version(1)) == {}


def test_only_what_nothing_needs_is_prunable():
    versions = [
        version(1, "retired"),
        version(2, "retired", metadata={"keep": True}),
        version(3, "failed"),
        version(4, "retired"),
        version(5, "retired"),
        version(6, "retired", sha256="6" * 64),
        version(7, "staged", sha256="6" * 64),
        version(8, "production"),
        version(9, "failed", pruned=True),
        version(10, "retired"),
    ]
    model = RegisteredModel("m", {one.version: one for one in versions}, "v8", ("v1", "v5"))

    def gone(needed=(), keep=0):
        return {one.version for one in prunable({"m": model}, set(needed), keep)}

    assert gone() == {"v1", "v3", "v4", "v10"}
    assert gone(needed=[("m", "v4"), ("other", "v3")]) == {"v1", "v3", "v10"}
    assert gone(keep=2) == {"v1", "v3", "v4"}
    assert gone(keep=100) == set()


def test_a_remote_version_has_no_file_to_remove():
    ended = [version(i, status="retired", sha256="" if i % 2 else f"s{i}") for i in range(6)]
    gone = prunable({"m": RegisteredModel("m", {each.version: each for each in ended}, history=[])}, set(), 0)
    assert {each.version for each in gone} == {"v0", "v2", "v4"}

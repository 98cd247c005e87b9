import errno
import hashlib
import io
import json
import os
import stat
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from bandit_serve.errors import InvalidArtifact, InvalidInput, NotFound, TooLarge
from bandit_serve.models import artifact
from bandit_serve.models.artifact import MAX_HEADER_BYTES, Artifact, ArtifactStore

ABOUT = '{"family": "f", "format_version": 1, "parameters": {"a": 1}}'
METADATA = {"bandit_serve": ABOUT}


def packed(header: dict | bytes | str, data: bytes = b"") -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def whole(**tensors: dict) -> dict:
    return {"__metadata__": METADATA, **tensors}


GOOD = packed(whole(a=entry(), b=entry("U8", (3,), (8, 11))), struct.pack("<ff3B", 1.5, -2, 7, 8, 9))


def test_what_is_written_is_what_is_read(tmp_path):
    tensors = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bytes": np.arange(5, dtype=np.uint8),
        "long": np.array([-1, 2**60]),
        "none": np.zeros((0, 4)),
        "int": np.array([7], np.int32),
    }
    artifact.write(tmp_path / "m", "family", {"b": 1, "a": [0.1, None]}, tensors)
    read = Artifact.map(tmp_path / "m")
    assert (read.family, read.parameters) == ("family", {"a": [0.1, None], "b": 1})
    assert read.size == (tmp_path / "m").stat().st_size
    assert read.sha256 == hashlib.sha256((tmp_path / "m").read_bytes()).hexdigest()
    for name, dtype in [("matrix", "F32"), ("bytes", "U8"), ("long", "I64"), ("none", "F64"), ("int", "I32")]:
        array = read.tensor(name, dtype, [None] * tensors[name].ndim)
        assert np.array_equal(array, tensors[name])
        assert array.dtype == tensors[name].dtype
        assert array.flags.aligned
        assert not array.flags.writeable
    assert safetensors.numpy.load_file(tmp_path / "m")["matrix"].tolist() == tensors["matrix"].tolist()


def test_a_tensor_is_in_the_map_and_outlives_the_artifact(tmp_path):
    artifact.write(tmp_path / "m", "family", {}, {"a": np.arange(1000.0)})
    read = Artifact.map(tmp_path / "m")
    array = read.tensor("a", "F64", [1000])
    assert np.shares_memory(array, np.frombuffer(read.buffer, np.uint8))
    (tmp_path / "m").unlink()
    del read
    assert array.sum() == 499_500


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    artifact.write(tmp_path / "m", "family", {}, {"a": np.arange(3.0)})
    before = (tmp_path / "m").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        artifact.write(tmp_path / "m", "family", {"a": float("nan")}, {"a": np.arange(3.0)})
    with pytest.raises(Exception, match="object"):
        artifact.write(tmp_path / "m", "family", {}, {"a": np.array([object()])})
    assert (tmp_path / "m").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_good_one_is_good():
    assert Artifact(GOOD).tensor("a", "F32", [2]).tolist() == [1.5, -2]
    assert Artifact(GOOD).tensor("b", "U8", [None]).tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("F64", [None]), ("I32", [2]), ("F32", [3]), ("F32", []), ("F32", [2, 1]), ("F32", [1, 2])],
)
def test_a_tensor_of_another_kind_is_refused(dtype, shape):
    with pytest.raises(InvalidArtifact, match="tensor a must be"):
        Artifact(GOOD).tensor("a", dtype, shape)


def test_a_tensor_that_is_not_there_is_refused():
    with pytest.raises(InvalidArtifact, match="no tensor c"):
        Artifact(GOOD).tensor("c", "F32", [2])


def about(**changes) -> dict:
    return {"__metadata__": {"bandit_serve": json.dumps({**json.loads(ABOUT), **changes})}}


REFUSED = {
    "empty": (b"", "ends before the length"),
    "shorter than a length": (b"\x08\0\0\0", "ends before the length"),
    "header cut": (GOOD[:40], "ends before its header"),
    "header longer than the file": (struct.pack("<Q", 5000) + b"{}", "ends before its header"),
    "header too large": (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}", "claims"),
    "header of 2**64 - 1": (b"\xff" * 8 + b"{}", "claims"),
    "a pickle": (b"\x80\x04\x95" + b"\0" * 60, "ends before its header|claims"),
    "a zip": (b"PK\x03\x04" + b"\0" * 60, "ends before its header|claims|JSON"),
    "not JSON": (packed("{not json"), "not JSON"),
    "not UTF-8": (packed(b'{"\xff": 1}'), "not JSON"),
    "UTF-16": (packed("{}".encode("utf-16")), "not JSON"),
    "a list": (packed("[]"), "not a JSON object"),
    "deep": (packed("[" * 100_000), "not JSON"),
    "a long number": (packed('{"a": ' + "9" * 100_000 + "}"), "not JSON"),
    "NaN": (packed('{"a": NaN}'), "number NaN"),
    "a key twice": (packed('{"a": 1, "a": 2}'), "key twice"),
    "a key twice inside": (packed('{"a": {"dtype": "F32", "dtype": "F32"}}'), "key twice"),
    "no metadata": (packed({"a": entry()}, b"\0" * 8), "not written by bandit_serve"),
    "foreign metadata": (
        packed({"__metadata__": {"format": "pt"}, "a": entry()}, b"\0" * 8),
        "not written by",
    ),
    "metadata a list": (packed({"__metadata__": []}), "not written by bandit_serve"),
    "metadata a number": (packed({"__metadata__": {"bandit_serve": 1}}), "not written by bandit_serve"),
    "metadata not JSON": (packed({"__metadata__": {"bandit_serve": "{"}}), "metadata is not JSON"),
    "metadata a surrogate": (packed('{"__metadata__": {"bandit_serve": "\\ud800"}}'), "metadata is not JSON"),
    "metadata with more": (packed(about(more=1)), "must be family"),
    "another version": (packed(about(format_version=2)), "format_version"),
    "version true": (packed(about(format_version=True)), "format_version"),
    "family a number": (packed(about(family=1)), "family must be"),
    "parameters a list": (packed(about(parameters=[])), "family must be"),
    "many tensors": (packed(whole(**{str(n): entry("U8", (0,), (0, 0)) for n in range(65)})), "more than 64"),
    "tensor a list": (packed(whole(a=[])), "must have dtype"),
    "tensor with more": (packed(whole(a={**entry(), "more": 1}), b"\0" * 8), "must have dtype"),
    "objects": (packed(whole(a=entry("O", (1,))), b"\0" * 8), "dtype of tensor 'a'"),
    "dtype a list": (packed(whole(a=entry([]))), "dtype of tensor 'a'"),
    "negative shape": (packed(whole(a=entry(shape=(-1, -2))), b"\0" * 8), "shape of tensor"),
    "fractional shape": (packed(whole(a=entry(shape=(2.0,))), b"\0" * 8), "shape of tensor"),
    "true shape": (packed(whole(a=entry(shape=(True, 2))), b"\0" * 8), "shape of tensor"),
    "huge shape": (packed(whole(a=entry(shape=(2**63,))), b"\0" * 8), "shape of tensor"),
    "overflowing shape": (packed(whole(a=entry(shape=(2**62, 4))), b"\0" * 8), "do not fit"),
    "five dimensions": (packed(whole(a=entry(shape=(1, 1, 1, 1, 2))), b"\0" * 8), "shape of tensor"),
    "one offset": (packed(whole(a=entry(offsets=(0,))), b"\0" * 8), "data_offsets of tensor"),
    "negative offset": (packed(whole(a=entry(offsets=(-8, 0))), b"\0" * 8), "data_offsets of tensor"),
    "offsets backwards": (packed(whole(a=entry(offsets=(8, 0))), b"\0" * 8), "outside the file"),
    "offset past the end": (packed(whole(a=entry(offsets=(0, 8))), b"\0" * 7), "outside the file"),
    "offset far past the end": (packed(whole(a=entry(offsets=(0, 2**62)))), "outside the file"),
    "size that does not fit": (packed(whole(a=entry(shape=(3,))), b"\0" * 8), "do not fit"),
    "overlap": (packed(whole(a=entry(), b=entry(offsets=(4, 12))), b"\0" * 12), "'b' overlaps"),
    "same bytes twice": (packed(whole(a=entry(), b=entry()), b"\0" * 8), "'b' overlaps"),
    "hole": (packed(whole(a=entry(), b=entry(offsets=(12, 20))), b"\0" * 20), "'b' leaves a hole"),
    "hole at the start": (packed(whole(a=entry(offsets=(8, 16))), b"\0" * 16), "'a' leaves a hole"),
    "more after the end": (GOOD + b"\0", "1 bytes after its last tensor"),
    "cut": (GOOD[:-1], "outside the file"),
    "misaligned": (
        packed(whole(a=entry("U8", (1,), (0, 1)), b=entry(offsets=(1, 9))), b"\0" * 9),
        "not aligned",
    ),
    "surrogate name": (
        packed(whole(**{"\ud800": 1})),
        r"'\\ud800' must have",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_a_model_file_is_refused_with_the_reason(name, tmp_path):
    content, match = REFUSED[name]
    with pytest.raises(InvalidArtifact, match=match) as caught:
        Artifact(content)
    assert len(str(caught.value).encode()) < 300
    store = ArtifactStore(tmp_path)
    with pytest.raises(InvalidArtifact):
        store.put(content)
    assert list(tmp_path.iterdir()) == []


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["F32", "U8"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "I64", "F64"]) | JSON,
        "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
        "data_offsets": st.tuples(st.integers(0, 40), st.integers(0, 40)) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=4), ENTRY | JSON, max_size=4), st.binary(max_size=48))
def test_any_header_is_refused_or_describes_the_data(header, data):
    try:
        read = Artifact(packed(whole(**header), data))
    except InvalidArtifact:
        return
    assert sum(tensor.end - tensor.begin for tensor in read.tensors.values()) == len(data)
    for name, tensor in read.tensors.items():
        dtype = next(key for key, value in artifact.DTYPES.items() if value == tensor.dtype)
        assert read.tensor(name, dtype, tensor.shape).nbytes == tensor.end - tensor.begin


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "deep" / "store", max_bytes=1_000)


@pytest.mark.parametrize("kind", ["bytes", "stream", "path", "text path"])
def test_a_file_is_stored_under_its_digest(store, tmp_path, kind):
    (tmp_path / "source").write_bytes(GOOD)
    source = {"bytes": GOOD, "stream": io.BytesIO(GOOD), "path": tmp_path / "source"}.get(
        kind, str(tmp_path / "source")
    )
    digest = hashlib.sha256(GOOD).hexdigest()
    assert store.put(source) == (digest, len(GOOD))
    assert [path.name for path in store.root.iterdir()] == [f"{digest}.safetensors"]
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o400
    assert store.open(digest).sha256 == digest
    assert store.put(GOOD) == (digest, len(GOOD))
    store.delete(digest)
    assert list(store.root.iterdir()) == []
    with pytest.raises(NotFound):
        store.open(digest)
    with pytest.raises(NotFound):
        store.delete(digest)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_what_was_placed_is_taken_back_and_what_was_there_stays(store, monkeypatch, links):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    first, second = store.receive(io.BytesIO(GOOD)), store.receive(io.BytesIO(GOOD))
    path = store.path(first.sha256)
    store.place(first)
    assert path.read_bytes() == GOOD
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert store.open(first.sha256).sha256 == first.sha256
    store.place(second)
    store.withdraw(second)
    assert path.exists(), "another placed it"
    store.withdraw(first)
    assert not path.exists()
    store.forget(first)
    store.forget(second)
    assert list(store.root.iterdir()) == []


def test_a_stream_in_small_pieces_is_one_file(store):
    class Dribble(io.RawIOBase):
        rest = GOOD

        def read(self, size=-1):
            piece, self.rest = self.rest[:7], self.rest[7:]
            return piece

    assert store.put(Dribble())[1] == len(GOOD)


def test_what_the_check_refuses_is_not_kept(store):
    seen = []

    def check(read: Artifact) -> None:
        seen.append(read.family)
        raise InvalidArtifact("No.")

    with pytest.raises(InvalidArtifact, match="No"):
        store.put(GOOD, check=check)
    assert seen == ["f"]
    assert list(store.root.iterdir()) == []


def test_over_the_limit_is_too_large(store, tmp_path):
    with pytest.raises(TooLarge, match="1000 bytes"):
        store.put(GOOD + b"\0" * 1_000)

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            return b"\0" * 100

    with pytest.raises(TooLarge):
        store.put(Endless())
    assert list(store.root.iterdir()) == []
    (tmp_path / "large").write_bytes(GOOD)
    with pytest.raises(TooLarge, match="more than the 10"):
        Artifact.map(tmp_path / "large", max_bytes=10)


def test_content_is_hashed_once_and_again_when_the_file_is_another(store, tmp_path, monkeypatch):
    digest, _ = store.put(GOOD)
    (tmp_path / "try").touch()
    try:
        os.setxattr(tmp_path / "try", artifact.MARK, b"1")
    except (OSError, AttributeError):
        pytest.skip("this file system has no extended attributes")
    hashed = []
    real = hashlib.sha256
    monkeypatch.setattr(artifact.hashlib, "sha256", lambda *data: hashed.append(1) or real(*data))
    for _ in range(3):
        store.open(digest)
    assert hashed == []
    content = store.path(digest).read_bytes()
    store.path(digest).unlink()
    store.path(digest).write_bytes(content)
    for _ in range(3):
        store.open(digest)
    assert hashed == [1]


@pytest.mark.parametrize("at", [0, 9, len(GOOD) - 1])
def test_content_that_changed_on_disk_is_refused(store, at):
    digest, _ = store.put(GOOD)
    store.path(digest).chmod(0o644)
    changed = bytearray(GOOD)
    changed[at] ^= 1
    store.path(digest).write_bytes(changed)
    with pytest.raises(InvalidArtifact, match="does not match its SHA-256"):
        store.open(digest)
    store.path(digest).write_bytes(b"")
    with pytest.raises(InvalidArtifact, match="empty"):
        store.open(digest)


@pytest.mark.parametrize(
    "name", ["", "abc", "../" * 20 + "etc", "A" * 64, "a" * 65, "a" * 64 + "\n", "é" * 64]
)
def test_only_a_digest_is_a_name(store, name):
    for call in (store.open, store.delete, store.path):
        with pytest.raises(InvalidInput, match="SHA-256"):
            call(name)


def test_what_is_not_a_regular_file_is_refused(store, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(InvalidArtifact, match="regular file"):
            Artifact.map(path)
    with pytest.raises(NotFound):
        Artifact.map(tmp_path / "none")
    with pytest.raises(NotFound):
        store.put(tmp_path / "none")


def test_what_a_dead_process_left_is_swept(store):
    old, fresh = store.root / f"{artifact.PUT}old", store.root / f"{artifact.PUT}fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    long_ago = old.stat().st_mtime - artifact.ABANDONED_AFTER_S - 60
    os.utime(old, (long_ago, long_ago))
    assert store.left() == []
    assert list(store.root.iterdir()) == [fresh]


def test_a_deleted_artifact_stays_with_who_has_it(store):
    digest, _ = store.put(GOOD)
    read = store.open(digest)
    store.delete(digest)
    assert read.tensor("a", "F32", [2]).tolist() == [1.5, -2]

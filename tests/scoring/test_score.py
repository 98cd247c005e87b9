"""`bandit-serve score`: the numbers of the service, for rows of files."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Finished, bandit_serve
from dask_clusters import dask_cluster
from http_calls import upload
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.errors import InvalidArtifact, InvalidInput, UsageError
from bandit_serve.export.formats import Format
from bandit_serve.export.places import place_of
from bandit_serve.models import FAMILIES, FactorizationMachine, MatrixFactorization, Model, Popularity
from bandit_serve.scoring import score_table
from bandit_serve.scoring.batch import score_files
from bandit_serve.scoring.model_source import of_file
from bandit_serve.scoring.question import CHUNK_ROWS, EXCLUDING_USERS, BatchQuestion
from bandit_serve.scoring.row_files import row_files
from bandit_serve.scoring.scorer import Scorer
from bandit_serve.training.columns import RatingColumns
from bandit_serve.training.ratings import read_rated

Row = dict[str, Any]
N_USERS, N_ITEMS = 40, 30
DEVICES = ("ios", "web", "tv")


def fitted(name: str) -> Model:
    chance = np.random.default_rng(3)
    users, items = chance.integers(N_USERS, size=900), chance.integers(N_ITEMS, size=900)
    ratings = chance.normal(size=900) + users % 3 + items % 5
    features = None
    if FAMILIES[name].takes_features:
        features = [{"device": DEVICES[n % 3], "age": float(n % 50)} for n in range(900)]
    model: Model = FAMILIES[name]()
    return model.fit(users, items, ratings, features=features)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model file of each family."""
    folder = tmp_path_factory.mktemp("models")
    paths = {}
    for name in FAMILIES:
        paths[name] = folder / f"{name}.safetensors"
        fitted(name).save(paths[name])
    return paths


def pairs(n: int) -> list[Row]:
    """Pairs of which some users and items are unknown to the models."""
    chance = random.Random(5)
    return [
        {"user_id": str(chance.randrange(N_USERS + 5)), "item_id": f"{chance.randrange(N_ITEMS + 5)}"}
        for _ in range(n)
    ]


def written(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=64)
    return path


def score(*arguments: str | Path, data: Path | None = None) -> Finished:
    where: tuple[str | Path, ...] = () if data is None else ("--data", data)
    return bandit_serve("score", *arguments, *where)


def scored(out: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(out).to_pylist()
    return rows


def answers(service: ThrowawayService, model: str, requests: list[Row]) -> list[Row]:
    found = []
    for request in requests:
        answer = service.call("POST", f"/v1/models/{model}/predict", request)
        assert answer.status == 200, answer
        found.append(answer.body)
    return found


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_scores_are_those_that_the_service_answers(
    family: str, models: dict[str, Path], service: ThrowawayService, tmp_path: Path
) -> None:
    assert upload(service, family, models[family].read_bytes(), {"version": "v1"}).status == 201
    promoted = service.call("POST", f"/v1/models/{family}/versions/v1/status", {"status": "production"})
    assert promoted.status == 200, promoted
    rows = pairs(60)
    takes_features = FAMILIES[family].takes_features
    if takes_features:
        for n, row in enumerate(rows):
            row["features"] = {"device": DEVICES[n % 3], "age": n % 50}
    out = tmp_path / "pairs.parquet"
    ran = score(
        written(tmp_path / "rows.parquet", rows), "--version", family, "--out", out, "--confidence", "--json",
        data=service.data,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    report = ran.document
    assert (report["by"], report["rows"], report["written"], report["rejected"]) == (
        f"{family}/v1",
        60,
        60,
        0,
    )
    table = pq.read_table(out)
    names = ["user_id", "item_id", "prediction", "confidence"]
    assert table.schema.names == names
    assert table.schema.types == [pa.string(), pa.string(), pa.float64(), pa.float64()]
    assert table.to_pylist() == [
        {name: answer[name] for name in names} for answer in answers(service, family, rows)
    ]
    assert len({row["confidence"] for row in scored(out)}) > 1

    asked = [
        {key: row[key] for key in ("user_id", "features") if key in row}
        | {"exclude": [str(n % N_ITEMS) for n in range(place, place + 4)]}
        for place, row in enumerate(rows[:20])
    ]
    out = tmp_path / "best.parquet"
    ran = score(
        written(tmp_path / "users.parquet", asked), "--version", f"{family}/v1", "--k", "7", "--out", out,
        data=service.data,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert pq.read_schema(out).types == [pa.string(), pa.int32(), pa.string(), pa.float64()]
    expected = [
        {"user_id": answer["user_id"], "rank": rank, **item}
        for answer in answers(service, family, [{**row, "k": 7} for row in asked])
        for rank, item in enumerate(answer["items"], 1)
    ]
    assert scored(out) == expected
    assert len(expected) == 140


@pytest.mark.parametrize("kind", ["random_forest", "arithmetic"])
def test_graphs_score_the_features_of_rows(kind: str, service: ThrowawayService, tmp_path: Path) -> None:
    if kind == "arithmetic":
        content = graphs.arithmetic("Div")
        rows: list[Row] = [{"a": float(n), "b": float(n + 1), "user_id": f"u{n}"} for n in range(150)]
    else:
        made = graphs.random_forest()
        content = made.content
        rows = [{f"x{i}": value for i, value in enumerate(row)} for row in made.features]
    name = kind.replace("_", "-")
    assert upload(service, name, content, {"version": "v1"}).status == 201
    promoted = service.call("POST", f"/v1/models/{name}/versions/v1/status", {"status": "production"})
    assert promoted.status == 200, promoted
    out = tmp_path / "out.parquet"
    ran = score(written(tmp_path / "rows.parquet", rows), "--version", name, "--out", out, data=service.data)
    assert ran.status == 0, ran.err
    requests = [{"features": {key: row[key] for key in row if key != "user_id"}} for row in rows]
    found = answers(service, name, requests)
    got = scored(out)
    assert [row["line"] for row in got] == list(range(1, len(rows) + 1))
    assert [row["user_id"] for row in got] == [row.get("user_id") for row in rows]
    if kind == "arithmetic":
        assert [row["prediction"] for row in got] == [answer["prediction"] for answer in found]
    else:
        for row, answer in zip(got, found, strict=True):
            outputs = {key.removeprefix("output_"): value for key, value in row.items() if "output_" in key}
            assert outputs == answer["outputs"]


def test_a_row_that_a_graph_does_not_score_is_told(tmp_path: Path) -> None:
    graph = tmp_path / "division.onnx"
    graph.write_bytes(graphs.arithmetic("Div"))
    rows = [{"a": 1.0, "b": float(n % 3)} for n in range(9)] + [{"a": None, "b": 1.0}]
    source, out, rejects = written(tmp_path / "rows.parquet", rows), tmp_path / "out", tmp_path / "rejects"
    ran = score(source, "--model-file", graph, "--out", out, "--rejects", rejects)
    assert ran.status == 0, ran.err
    assert [row["line"] for row in scored(out)] == [2, 3, 5, 6, 8, 9]
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(each["file"], each["line"]) for each in told] == [("rows.parquet", n) for n in (1, 4, 7, 10)]
    assert "not finite" in told[0]["detail"]
    assert "features.a" in told[3]["detail"] or "a" in told[3]["detail"]


def test_every_format_and_any_number_of_workers_give_the_same(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows = pairs(500)
    model = models["matrix_factorization"]
    sources = [written(tmp_path / "rows.parquet", rows)]
    sources.append(tmp_path / "rows.csv")
    with sources[-1].open("w", newline="") as file:
        writer = csv.DictWriter(file, ["item_id", "user_id"])
        writer.writeheader()
        writer.writerows(rows)
    sources.append(tmp_path / "rows.jsonl.gz")
    lines = "".join(json.dumps({**row, "user_id": int(row["user_id"])}) + "\n" for row in rows)
    sources[-1].write_bytes(gzip.compress(lines.encode()))
    folder = tmp_path / "folder"
    (folder / "date=1").mkdir(parents=True)
    sources.append(folder)
    written(folder / "date=1" / "b.parquet", rows[200:])
    written(folder / "a.parquet", rows[:200])
    (folder / "_SUCCESS").write_text("")
    found = []
    for n, source in enumerate(sources):
        out = tmp_path / f"out{n}"
        assert score(source, "--model-file", model, "--out", out).status == 0
        found.append(scored(out))
    assert found[1:] == found[:1] * 3
    assert [row["user_id"] for row in found[0]] == [row["user_id"] for row in rows]

    users = written(tmp_path / "users.parquet", [{"user_id": n} for n in range(20_000)])
    contents = set()
    for workers in (1, 3):
        out = tmp_path / f"best{workers}"
        ran = score(users, "--model-file", model, "--k", "5", "--out", out, "--workers", str(workers))
        assert ran.status == 0, ran.err
        contents.add(out.read_bytes())
    assert len(contents) == 1
    assert pq.ParquetFile(out).num_row_groups == 2

    for form, read in (
        (
            "csv",
            lambda text: [{**row, "prediction": float(row["prediction"])} for row in csv.DictReader(text)],
        ),
        ("jsonl", lambda text: [json.loads(line) for line in text]),
    ):
        out = tmp_path / f"out.{form}"
        assert score(sources[0], "--model-file", model, "--out", out, "--format", form).status == 0
        assert read(out.read_text().splitlines()) == found[0]


def test_users_by_items(models: dict[str, Path], tmp_path: Path) -> None:
    model = MatrixFactorization.load(models["matrix_factorization"])
    users = written(tmp_path / "users.parquet", [{"user_id": f"{n}"} for n in (3, 700, 5)])
    items = tmp_path / "items.csv"
    items.write_text("item_id,price\n7,1\nnew,2\n9,3\n7,1\n")
    out = tmp_path / "out"
    shared = ("--model-file", models["matrix_factorization"], "--items", items, "--out", out)
    assert score(users, *shared).status == 0
    assert scored(out) == [
        {"user_id": user, "item_id": item, "prediction": model.predict(user, item)}
        for user in ("3", "700", "5")
        for item in ("7", "new", "9")
    ]
    assert score(users, *shared, "--k", "2", "--overwrite").status == 0
    assert scored(out) == [
        {"user_id": user, "rank": rank, "item_id": item, "score": value}
        for user in ("3", "700", "5")
        for rank, (item, value) in enumerate(model.top_k(user, 2, among=["7", "9"]), 1)
    ]


def test_users_who_exclude_items_are_read_in_small_chunks_and_written_in_large_ones(
    models: dict[str, Path], tmp_path: Path
) -> None:
    users = [
        {"user_id": str(n % 60), "exclude": [str(n % 7), str(n % 11)]} for n in range(3 * EXCLUDING_USERS)
    ]
    files = row_files(str(written(tmp_path / "users.parquet", users)))
    question, source = BatchQuestion(k=3), of_file(models["popularity"])
    assert Scorer(source, question).chunk_rows(files) == EXCLUDING_USERS
    assert Scorer(source, BatchQuestion(k=1_000)).chunk_rows(files) == CHUNK_ROWS // 1_000
    report = score_files(files, source, question, place_of(str(tmp_path / "out.parquet")), "parquet")
    assert report.rows == len(users)
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1
    model = Popularity.load(models["popularity"])
    expected = model.top_k_many([row["user_id"] for row in users], 3, [row["exclude"] for row in users])
    found = [(row["user_id"], row["rank"], row["item_id"]) for row in scored(tmp_path / "out.parquet")]
    assert found == [
        (row["user_id"], rank, item)
        for row, ranking in zip(users, expected, strict=True)
        for rank, (item, _) in enumerate(ranking, 1)
    ]


def test_bad_rows_are_told_by_their_number(models: dict[str, Path], tmp_path: Path) -> None:
    source, out, rejects = tmp_path / "rows.jsonl", tmp_path / "out", tmp_path / "rejects"
    lines = [
        '{"user_id": "1", "item_id": "2"}',
        '{"user_id": "", "item_id": "2"}',
        "",
        '{"user_id": 1.5, "item_id": "2"}',
        "[]",
        '{"item_id": "2"}',
        '{"user_id": "a\\u0001", "item_id": 2}',
        '{"user_id": 4, "item_id": 2, "more": {}}',
    ]
    source.write_text("\n".join(lines) + "\n")
    model = models["popularity"]
    ran = score(source, "--model-file", model, "--out", out)
    assert ran.status == 1
    assert "rows.jsonl, line 2: user_id: expected 1 to 256 bytes" in ran.err.replace("\n", " ")
    assert "--rejects" in ran.err
    assert not out.exists()
    ran = score(source, "--model-file", model, "--out", out, "--rejects", rejects, "--json")
    assert ran.status == 0, ran.err
    assert (ran.document["rows"], ran.document["written"], ran.document["rejected"]) == (7, 2, 5)
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [each["line"] for each in told] == [2, 4, 5, 6, 7]
    assert [row["user_id"] for row in scored(out)] == ["1", "4"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--k", "3", "--confidence"], "--confidence"),
        (["--features", "age"], "takes no features"),
        (["--version", "m/v1"], "one of --version"),
        (["--out", "there"], "--out already"),
        (["--rejects", "there"], "--rejects already"),
        (["--rejects", "./new"], "another file than --out"),
        (["--out", "lake", "--overwrite"], "a folder at --out"),
        (["--rejects", "lake", "--overwrite"], "a folder at --rejects"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"], "one of --workers"),
        (["--experiment", "e"], "one of --version"),
        (["--exposures", "later"], "--exposures goes with"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_written(
    options: list[str], said: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("mine")
    Path("lake").mkdir()
    Path("lake/ours").write_text("all")
    written(Path("rows.parquet"), [{"user_id": "u", "item_id": "i", "age": 3}])
    ran = score(
        "rows.parquet", "--model-file", models["popularity"], *(() if "--out" in options else ("--out", "new")),
        *options,
    )  # fmt: skip
    assert ran.status == 2, ran.err
    assert said in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"there", "rows.parquet", "lake"}
    assert Path("lake/ours").read_text() == "all"
    assert Path("there").read_text() == "mine"


def test_files_that_lack_a_column_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    users = written(tmp_path / "users.parquet", [{"user_id": "u"}])
    ran = score(users, "--model-file", models["popularity"], "--out", tmp_path / "out")
    assert ran.status == 2
    assert "no column 'item_id'" in ran.err
    assert "--k" in ran.err
    floats = written(tmp_path / "floats.parquet", [{"user_id": 1.5, "item_id": "i"}])
    ran = score(floats, "--model-file", models["popularity"], "--out", tmp_path / "out")
    assert ran.status == 1
    assert "has the type double" in ran.err


def test_memory_does_not_grow_with_the_rows(models: dict[str, Path], tmp_path: Path) -> None:
    peaks = []
    for n in (100_000, 600_000):
        chance = np.random.default_rng(n)
        table = pa.table({"user_id": chance.integers(10**6, size=n), "item_id": chance.integers(40, size=n)})
        pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100_000)
        del table
        code = (
            "import sys; from bandit_serve.cli.main import run\n"
            "try: run()\n"
            "finally: print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
        )
        command = [sys.executable, "-c", code, "score", "rows.parquet", "--model-file"]
        command += [str(models["matrix_factorization"]), "--out", f"out{n}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]) * 1024)
    assert peaks[1] < peaks[0] + 32 * 2**20, peaks


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_end_in_the_middle_leaves_nothing_at_the_target(
    number: signal.Signals, models: dict[str, Path], tmp_path: Path
) -> None:
    n = 2_000_000
    table = pa.table({"user_id": np.arange(n) % 997, "item_id": np.arange(n) % 31})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=100_000)
    words = ["score", "rows.parquet", "--out", "out", "--workers", "2"]
    words += ["--model-file", str(models["matrix_factorization"])]
    process = subprocess.Popen(
        [sys.executable, "-m", "bandit_serve", *words], cwd=tmp_path, env=clean_environment()
    )
    scratch: list[Path] = []

    def begun() -> bool:
        scratch[:] = tmp_path.glob(".out.*/rows")
        return bool(scratch) and scratch[0].stat().st_size > 100_000

    try:
        wait_until(begun)
        children = _descendants(process.pid)
        assert len(children) >= 2
    finally:
        process.send_signal(number)
        process.wait()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert not (tmp_path / "out").exists()
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    wait_until(lambda: not any(_is_running(pid) for pid in children))


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return found + [below for child in found for below in _descendants(child)]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_partitions_on_a_cluster_are_the_whole(models: dict[str, Path], tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    model = str(models["matrix_factorization"])
    rows = pairs(400)
    for row in rows:
        row["exclude"] = ["1", "2"]
    table = pa.Table.from_pylist(rows)
    parts = [table.slice(start, 90) for start in range(0, 400, 90)]
    with (
        dask_cluster(n_workers=2, threads_per_worker=1, local_directory=tmp_path) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = client.gather(client.map(score_table, parts, model=model, pure=False))
        best = client.gather(client.map(score_table, parts, model=model, k=3, pure=False))
        users = written(tmp_path / "users.parquet", [{"user_id": n} for n in range(20_000)])
        shared = ("--model-file", model, "--k", "5", "--out")
        ran = score(users, *shared, tmp_path / "there", "--scheduler", cluster.scheduler_address)
        assert ran.status == 0, ran.err
        assert score(users, *shared, tmp_path / "here").status == 0
        assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    assert pa.concat_tables(found).equals(score_table(table, model))
    assert pa.concat_tables(best).equals(score_table(table, model, k=3))
    source, out = written(tmp_path / "rows.parquet", rows), tmp_path / "out"
    assert score(source, "--model-file", model, "--out", out).status == 0
    assert pq.read_table(out).equals(pa.concat_tables(found).replace_schema_metadata(None))


@pytest.mark.server
def test_a_table_is_scored_where_a_loop_runs(tmp_path: Path) -> None:
    made = graphs.random_forest(zipmap=True)
    path = tmp_path / "forest.onnx"
    path.write_bytes(made.content)
    table = pa.table({"features": made.features})

    async def in_a_notebook() -> pa.Table:
        return score_table(table, path)

    scored = asyncio.run(in_a_notebook())
    assert scored.schema.field("output_output_probability").type == pa.map_(pa.string(), pa.float64())
    for row, label, chances in zip(scored.to_pylist(), made.labels, made.probabilities, strict=True):
        assert row["output_output_label"] == label
        given = dict(row["output_output_probability"])
        assert [given["0"], given["1"]] == pytest.approx(chances, abs=1e-5)


def test_features_that_a_family_does_not_take_are_told_by_row(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows = [{"user_id": "1", "item_id": "2"}, {"user_id": "1", "item_id": "2", "features": {"age": 3}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, rejects = tmp_path / "out", tmp_path / "rejects"
    files, source = row_files(str(tmp_path / "rows.jsonl")), of_file(models["popularity"])
    with pytest.raises(InvalidInput, match=r"rows\.jsonl, line 2: features: .* takes none"):
        score_files(files, source, BatchQuestion(), place_of(str(out)), "parquet")
    told = place_of(str(rejects))
    report = score_files(files, source, BatchQuestion(), place_of(str(out)), "parquet", rejects=told)
    assert (report.written, report.rejected) == (1, 1)


def test_features_of_csv_are_those_that_training_read_of_the_same_file(tmp_path: Path) -> None:
    chance = np.random.default_rng(11)
    zips, ages = ("02134", "10115", "N1 7AA", "1e5"), ("31", "4,5", "", "NA")
    rows = [
        (f"u{n % 9}", f"i{n % 7}", n % 5 + 1, zips[k], ages[m])
        for n, (k, m) in enumerate(
            zip(chance.integers(4, size=400), chance.integers(4, size=400), strict=True)
        )
    ]
    path = tmp_path / "ratings.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "rating", "zip", "age"), *rows])
    columns = RatingColumns("user_id", "item_id", "rating", None, features=("zip", "age"))
    rated = read_rated(path, columns)
    assert rated.features is not None
    users, items = [row[0] for row in rows], [row[1] for row in rows]
    model = FactorizationMachine().fit(users, items, [row[2] for row in rows], features=rated.features)
    assert model.numbers_among(["age", "zip", "none"]) == {"age"}
    model.save(tmp_path / "fm.safetensors")

    fm, out = tmp_path / "fm.safetensors", tmp_path / "scores.parquet"
    ran = score(path, "--model-file", fm, "--features", "zip,age", "--confidence", "--out", out)
    assert ran.status == 0, ran.err
    found, loaded = scored(out), FactorizationMachine.load(fm)
    known = [loaded.confidence(*row) for row in zip(users, items, rated.features, strict=True)]
    assert [row["confidence"] for row in found] == known
    expected = loaded.predict_many(users, items, rated.features)
    assert [row["prediction"] for row in found] == expected.tolist()


def test_items_of_a_table_are_texts_or_whole_numbers(models: dict[str, Path]) -> None:
    table = pa.table({"user_id": [1]})
    path = models["matrix_factorization"]
    texts = score_table(table, path, items=["1", "2"])
    assert score_table(table, path, items=[1, np.int64(2)]).equals(texts)
    refused: list[list[Any]] = [[1.5], [""], [None], [True]]
    for wrong in refused:
        with pytest.raises(InvalidInput, match="items: of each"):
            score_table(table, path, items=wrong)


@pytest.mark.server
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_scores_by_class_are_objects_as_the_service_answers_them(form: Format, tmp_path: Path) -> None:
    made = graphs.random_forest(zipmap=True)
    (tmp_path / "forest.onnx").write_bytes(made.content)
    pq.write_table(pa.table({"features": made.features}), tmp_path / "rows.parquet")
    out, source = tmp_path / "out", of_file(tmp_path / "forest.onnx")
    score_files(row_files(str(tmp_path / "rows.parquet")), source, BatchQuestion(), place_of(str(out)), form)
    if form == "jsonl":
        rows = [json.loads(line)["output_output_probability"] for line in out.read_text().splitlines()]
    else:
        with out.open(newline="") as file:
            rows = [json.loads(row["output_output_probability"]) for row in csv.DictReader(file)]
    for chances, given in zip(made.probabilities, rows, strict=True):
        assert given == pytest.approx({"0": chances[0], "1": chances[1]}, abs=1e-5)


def test_a_model_that_was_trained_again_gives_its_own_scores(tmp_path: Path) -> None:
    path = tmp_path / "model"
    table = pa.table({"user_id": ["1"], "item_id": ["2"]})
    for n in (1, 2):
        Popularity().fit(list(range(n)), [2] * n, [1.0] * n).save(path)
        (row,) = score_table(table, path).to_pylist()
        assert row["prediction"] == Popularity.load(path).predict("1", "2") == float(n)
        source = of_file(path)
    Popularity().fit([1, 2, 3], [2, 2, 2], [1.0, 1.0, 1.0]).save(path)
    assert of_file(path) != source
    with pytest.raises(InvalidArtifact, match="another content"):
        source.open()


def test_a_table_with_a_bad_row_is_refused(models: dict[str, Path]) -> None:
    table = pa.table({"user_id": ["u", None], "item_id": ["i", "i"]})
    with pytest.raises(InvalidInput, match="Row 2 of the table: user_id is missing"):
        score_table(table, models["popularity"])
    with pytest.raises(UsageError, match="takes no features"):
        score_table(table, models["popularity"], features=["age"])
    model = FactorizationMachine.load(models["factorization_machine"])
    table = pa.table({"user_id": ["1"], "item_id": ["2"], "device": ["tv"], "age": [7]})
    (row,) = score_table(table, models["factorization_machine"], features=["device", "age"]).to_pylist()
    assert row["prediction"] == model.predict("1", "2", {"device": "tv", "age": 7.0})
    assert row["prediction"] != model.predict("1", "2")

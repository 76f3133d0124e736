"""Datasets: what is in the folder, that a run goes on where another ended, and what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas
import pyarrow
import pyarrow.dataset
import pytest
import soundfile
from filelock import FileLock
from sounds import not_utf8_folder, voice, write

import serab_byols
from serab_byols import cli, embed_dataset, embed_file, embed_files
from serab_byols.corpus import tables
from serab_byols.corpus.dataset import part as part_module
from serab_byols.corpus.dataset.local_storage import LocalStorage
from serab_byols.corpus.dataset.part import NoObserver, PartMaker, failures_by_part
from serab_byols.corpus.dataset.run import make_locally
from serab_byols.corpus.listing import Inputs
from serab_byols.errors import InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")
N_CLIPS = 11
PART_SIZE = 4


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of short clips, two of them damaged."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(N_CLIPS):
        write(folder / f"{i:02d}.wav", voice(i, 0.3))
    (folder / "05.wav").write_bytes(b"")
    (folder / "08.wav").write_text("not audio")
    return folder


BAD = ("05.wav", "08.wav")


@pytest.fixture(scope="module")
def expected(clips, tiny_model):
    """The rows that a dataset of the clips must have, by name of the file."""
    good = [str(path) for path in sorted(clips.iterdir()) if path.name not in BAD]
    return {record.file: record for record in embed_files(good, tiny_model)}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "dataset"


def run(clips, out, model, **options):
    return embed_dataset([str(clips)], out, model, **{"part_size": PART_SIZE, **options})


def errors_of(out):
    path = Path(out) / "__run" / "errors.csv"
    return pandas.read_csv(path, keep_default_na=False) if path.exists() else pandas.DataFrame({"file": []})


def assert_complete(out, expected, dtype=np.float32):
    """Every row once, each with the embedding of its file alone; every bad file once in the errors."""
    table = pandas.read_parquet(out)
    assert sorted(table["file"]) == sorted(expected)
    for row in table.itertuples():
        record = expected[row.file]
        assert (row.start, row.end) == (record.start, record.end)
        np.testing.assert_allclose(row.embedding, record.embedding.astype(dtype), rtol=1e-4, atol=1e-5)
    assert sorted(map(os.path.basename, errors_of(out)["file"])) == list(BAD)


# What is in the folder


def test_a_corpus_becomes_parts_errors_and_a_description(clips, out, tiny_model, expected):
    summary = run(clips, out, tiny_model)
    assert (summary.location, summary.n_segments, summary.n_errors) == (str(out), N_CLIPS, 2)
    assert (summary.n_embedded, summary.n_parts) == (N_CLIPS - 2, 3)
    assert_complete(out, expected)
    assert sorted(path.name for path in out.glob("*")) == [
        "__run",
        "part-000000.parquet",
        "part-000001.parquet",
        "part-000002.parquet",
    ]
    errors = errors_of(out)
    assert list(errors) == ["file", "start", "end", "error"]
    assert sorted(errors["error"]) == [
        f"{clips / '05.wav'}: is empty (0 bytes)",
        f"{clips / '08.wav'}: cannot be read as audio (Format not recognised)",
    ]
    description = json.loads((out / "__run" / "run.json").read_text(encoding="utf-8"))
    assert description["table"]["encoder"] == "default"
    schema = pyarrow.dataset.dataset(out).schema
    assert json.loads(schema.metadata[b"serab_byols"]) == description["table"]


def test_the_plan_has_every_segment_in_order_with_its_part(clips, out, tiny_model):
    run(clips, out, tiny_model)
    plan = pandas.read_feather(out / "__run" / "plan" / "plan-000000.arrow")
    assert sorted(plan["file"]) == sorted(str(path) for path in clips.iterdir())
    assert list(plan["part"]) == [i // PART_SIZE for i in range(N_CLIPS)]
    for number in range(3):
        rows = pandas.read_parquet(out / f"part-{number:06d}.parquet")["file"]
        planned = plan["file"][plan["part"] == number]
        assert list(rows) == [file for file in planned if os.path.basename(file) not in BAD]


@pytest.mark.parametrize("part_size", [1, 5, 100])
def test_the_part_size_changes_no_row(clips, out, tiny_model, expected, part_size):
    assert run(clips, out, tiny_model, part_size=part_size).n_parts == -(-N_CLIPS // part_size)
    assert_complete(out, expected)


def test_frames_are_rows(clips, out, tiny_model):
    run(clips, out, tiny_model, timestamps=True, hop_size=100)
    table = pandas.read_parquet(out)
    assert list(table) == ["file", "start", "end", "time", "embedding"]
    record = embed_file(clips / "00.wav", tiny_model, timestamps=True, hop_size=100)
    rows = table[table["file"] == str(clips / "00.wav")]
    np.testing.assert_array_equal(rows["time"], record.time)
    np.testing.assert_allclose(np.stack(rows["embedding"]), record.embedding, rtol=1e-4, atol=1e-5)


def test_half_precision_takes_half_the_space_and_is_the_rounded_float32(clips, out, tiny_model, expected):
    run(clips, out, tiny_model, embedding_dtype="float16", compression="none")
    assert_complete(out, expected, np.float16)
    (number,) = {
        field.type.value_type for field in pyarrow.dataset.dataset(out).schema if field.name == "embedding"
    }
    assert number == pyarrow.float16()


def test_every_compression_is_read_back(clips, tmp_path, tiny_model, expected):
    for compression in tables.COMPRESSIONS:
        run(clips, tmp_path / compression, tiny_model, compression=compression)
        column = pyarrow.parquet.ParquetFile(
            tmp_path / compression / "part-000000.parquet"
        ).metadata.row_group(0)
        stored = column.column(0).compression.lower()
        assert stored == {"none": "uncompressed"}.get(compression, compression)
        assert_complete(tmp_path / compression, expected)


def test_columns_of_lists_are_carried_through_with_their_types(clips, tmp_path, out, tiny_model):
    csv = clips.parent / "list.csv"
    csv.write_text(f"path,speaker,start,end\n{clips / '00.wav'},=anna,0.1,0.2\n{clips / '01.wav'},0012,,\n")
    parquet = tmp_path / "list.parquet"
    pandas.DataFrame(
        {"file": [str(clips / "02.wav"), str(clips / BAD[0])], "age": [31, 32], "tags": [["a"], []]}
    ).to_parquet(parquet)
    embed_dataset([csv, parquet, clips / "03.wav"], out, tiny_model, part_size=2)
    table = pandas.read_parquet(out)
    assert list(table) == ["file", "start", "end", "speaker", "age", "tags", "embedding"]
    assert list(table["speaker"].fillna("")) == ["=anna", "0012", "", ""]
    assert [None if pandas.isna(age) else int(age) for age in table["age"]] == [None, None, 31, None]
    assert list(table["start"]) == [0.1, 0, 0, 0]
    assert pyarrow.dataset.dataset(out).schema.field("age").type == pyarrow.int64()


def test_a_table_of_ours_can_be_embedded_again(clips, tmp_path, out, tiny_model, expected):
    first = tmp_path / "first"
    run(clips, first, tiny_model)
    embed_dataset(sorted(first.glob("*.parquet")), out, tiny_model)
    again = pandas.read_parquet(out)
    assert sorted(again["file"]) == sorted(expected)
    assert list(again) == ["file", "start", "end", "embedding"]


# Readers


@pytest.mark.parametrize("pattern", ["", "/", "/*.parquet"])
def test_duckdb_sees_the_rows_and_nothing_else(clips, out, tiny_model, pattern):
    duckdb = pytest.importorskip("duckdb")
    run(clips, out, tiny_model)
    count, columns = duckdb.sql(
        f"SELECT count(*), any_value(embedding) FROM read_parquet('{out}{pattern}')"
    ).fetchall()[0]
    assert (count, len(columns)) == (N_CLIPS - 2, 16)


def test_polars_sees_the_rows(clips, out, tiny_model):
    polars = pytest.importorskip("polars")
    run(clips, out, tiny_model)
    assert polars.read_parquet(f"{out}/*.parquet").shape == (N_CLIPS - 2, 4)
    assert polars.scan_parquet(f"{out}/*.parquet").select("file").collect().height == N_CLIPS - 2


@pytest.mark.parametrize("argument", ["data_dir", "data_files"])
def test_datasets_sees_the_rows(clips, out, tmp_path, tiny_model, argument, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    run(clips, out, tiny_model)
    where = {"data_dir": str(out)} if argument == "data_dir" else {"data_files": f"{out}/*.parquet"}
    loaded = datasets.load_dataset("parquet", **where, cache_dir=str(tmp_path / "cache"))["train"]
    assert loaded.num_rows == N_CLIPS - 2
    assert len(loaded[0]["embedding"]) == 16


# Going on


def made(monkeypatch):
    """Numbers of the parts that are made from now on."""
    numbers = []
    write = PartMaker._write
    monkeypatch.setattr(
        PartMaker, "_write", lambda self, part, *rest: numbers.append(part.number) or write(self, part, *rest)
    )
    return numbers


def test_only_missing_parts_are_made(clips, out, tiny_model, expected, monkeypatch):
    run(clips, out, tiny_model)
    before = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    (out / "part-000001.parquet").unlink()
    numbers = made(monkeypatch)
    assert run(clips, out, tiny_model).n_embedded < PART_SIZE + 1
    assert numbers == [1]
    assert_complete(out, expected)
    table = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    assert table == before  # byte for byte: a part is a function of its segments
    assert run(clips, out, tiny_model).n_embedded == 0
    assert numbers == [1]


def test_a_run_that_fails_midway_goes_on(clips, out, tiny_model, expected):
    def breaks_after_one_part(parts, maker, observer):
        yield next(make_locally(parts, maker, observer))
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run(clips, out, tiny_model, engine=breaks_after_one_part)
    assert len(list(out.glob("*.parquet"))) == 1
    run(clips, out, tiny_model)
    assert_complete(out, expected)


def test_parts_can_be_made_twice_and_in_any_order(clips, out, tiny_model, expected):
    def twice_backwards(parts, maker, observer):
        for part in reversed(list(parts)):
            maker(part)
            yield maker(part)

    run(clips, out, tiny_model, engine=twice_backwards)
    assert_complete(out, expected)


def test_errors_of_a_worker_that_lost_the_race_are_not_counted(clips, out, tiny_model, expected):
    run(clips, out, tiny_model)
    with_error = next((out / "__run" / "errors").iterdir())
    stale = with_error.with_name(f"{with_error.name[:11]}-0123456789abcdef.arrow")
    shutil.copy(with_error, stale)
    assert run(clips, out, tiny_model).n_errors == 2
    assert not stale.exists()
    assert_complete(out, expected)


@pytest.mark.parametrize("timestamps", [False, True])
def test_retried_errors_come_to_their_places(tmp_path, out, tiny_model, monkeypatch, timestamps):
    inputs = [tmp_path / f"{i}.wav" for i in range(6)] + [tmp_path / "never.wav"]
    for i, path in enumerate(inputs[:6]):
        write(path, voice(i, 0.3))
    sound = inputs[2].read_bytes()
    inputs[2].unlink()
    options = {"part_size": 4, "timestamps": timestamps}
    for _ in range(2):
        assert embed_dataset(inputs, out, tiny_model, **options).n_errors == 2
    inputs[2].write_bytes(sound)
    decoded, original = [], part_module.decode_ahead

    def noted(segments, rate):
        return original((decoded.append(segment) or segment for segment in segments), rate)

    monkeypatch.setattr(part_module, "decode_ahead", noted)
    summary = embed_dataset(inputs, out, tiny_model, **options, retry_errors=True)
    assert (summary.n_errors, summary.n_embedded) == (1, 1)
    assert [os.path.basename(segment.file) for segment in decoded] == ["2.wav", "never.wav"]
    whole = embed_dataset(inputs, out.with_name("whole"), tiny_model, **options)
    pandas.testing.assert_frame_equal(pandas.read_parquet(out), pandas.read_parquet(whole.location))


def test_new_inputs_are_appended(clips, tmp_path, out, tiny_model, expected):
    more = tmp_path / "more"
    more.mkdir()
    write(more / "x.wav", voice(50, 0.3))
    run(clips, out, tiny_model)
    with pytest.raises(InvalidInputError, match=r"new are 1 \(.*x\.wav\), missing are none.*--append"):
        embed_dataset([clips, more], out, tiny_model, part_size=PART_SIZE)
    summary = embed_dataset([clips, more], out, tiny_model, append=True)
    assert (summary.n_segments, summary.n_embedded, summary.n_parts) == (N_CLIPS + 1, 1, 4)
    assert len(pandas.read_parquet(out)) == N_CLIPS - 1
    for again in ({"append": True}, {}):  # nothing new
        assert embed_dataset([clips, more], out, tiny_model, **again).n_embedded == 0
    write(more / "y.wav", voice(51, 0.3))
    assert embed_dataset([more], out, tiny_model, append=True).n_embedded == 1  # only what is new is named


def test_order_of_listing_does_not_matter(clips, out, tiny_model):
    files = [str(path) for path in sorted(clips.iterdir())]
    embed_dataset(files, out, tiny_model)
    assert embed_dataset(files[::-1], out, tiny_model).n_embedded == 0
    with pytest.raises(InvalidInputError, match="new are none, missing are 1"):
        embed_dataset(files[1:], out, tiny_model)
    with pytest.raises(InvalidInputError, match=r"new are 1 .*, missing are none"):
        embed_dataset([*files, files[0]], out, tiny_model)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestamps": True}, "frame_duration_ms is not set there and 1000.0 now"),
        ({"embedding_dtype": "float16"}, 'embedding_dtype is "float32" there and "float16" now'),
        ({"part_size": 3}, "part_size is 4 there and 3 now"),
        ({"compression": "zstd"}, 'compression is "snappy" there and "zstd" now'),
        ({"dtype": "bfloat16"}, 'dtype is "float32" there and "bfloat16" now'),
    ],
)
def test_a_run_with_other_options_is_refused(clips, out, tiny_model, options, message):
    run(clips, out, tiny_model)
    with pytest.raises(InvalidInputError, match=message):
        run(clips, out, tiny_model, **options)


def test_a_run_with_another_model_or_normalization_is_refused(clips, out, tiny_model, tiny_checkpoint):
    run(clips, out, tiny_checkpoint)
    run(clips, out, tiny_model)  # the same weights from elsewhere
    with pytest.raises(InvalidInputError, match=r'normalization is "clip" there and \[-6\.0, 5\.0\] now'):
        run(clips, out, serab_byols.load_model(tiny_checkpoint, normalization=(-6, 5)))
    with pytest.raises(InvalidInputError, match="weights_sha256 is "):
        run(clips, out, serab_byols.create_model("default", d=16))


def test_changed_columns_are_refused(clips, tmp_path, out, tiny_model):
    csv = tmp_path / "list.csv"
    csv.write_text(f"path,label\n{clips / '00.wav'},a\n")
    embed_dataset(csv, out, tiny_model)
    csv.write_text(f"path,label\n{clips / '00.wav'},b\n")
    with pytest.raises(InvalidInputError, match=r"new are 1 .*, missing are 1"):
        embed_dataset(csv, out, tiny_model)
    with pytest.raises(InvalidInputError, match=r"the columns of .*00.wav have changed"):
        embed_dataset(csv, out, tiny_model, append=True)
    csv.write_text(f"path,other\n{clips / '00.wav'},b\n")
    with pytest.raises(InvalidInputError, match=r"columns other \(string\), .* begun with label \(string\)"):
        embed_dataset(csv, out, tiny_model)


def test_a_second_run_at_once_is_refused(clips, out, tiny_model):
    run(clips, out, tiny_model)
    with FileLock(out / "__run" / "lock"), pytest.raises(InvalidInputError, match="another run is writing"):
        run(clips, out, tiny_model)
    run(clips, out, tiny_model)


def test_a_folder_of_something_else_is_left_alone(clips, tmp_path, tiny_model):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match=r"not a dataset of this library \(it holds notes.txt\)"):
        run(clips, tmp_path, tiny_model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_an_input_in_the_output_folder_is_refused(clips, out, tiny_model):
    run(clips, out, tiny_model)
    for name in (out, out / "part-000000.parquet"):
        with pytest.raises(InvalidInputError, match="lies in the output folder"):
            run(name, out, tiny_model)


def test_a_damaged_description_is_an_error(clips, out, tiny_model):
    run(clips, out, tiny_model)
    for text in ("", "{}", "[]", '{"format_version": 1, "plan": [{}]}', '{"format_version": 9, "plan": []}'):
        (out / "__run" / "run.json").write_text(text)
        with pytest.raises(InvalidInputError, match="is damaged"):
            run(clips, out, tiny_model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part_size": 0}, "part_size must be a positive number"),
        ({"part_size": 1.5}, "part_size must be a positive number"),
        ({"compression": "rar"}, "compression must be one of none, snappy"),
        ({"embedding_dtype": "int4"}, "embedding_dtype must be one of"),
        ({"dtype": "float8"}, "dtype must be one of float32, bfloat16, float16"),
        ({"dense": True}, "needs timestamps=True"),
    ],
)
def test_impossible_options_leave_nothing_behind(clips, out, tiny_model, options, message):
    with pytest.raises(InvalidInputError, match=message):
        run(clips, out, tiny_model, **options)
    assert not out.exists()


# Odd files


def test_a_recording_that_breaks_off_while_its_frames_are_written_leaves_no_rows(
    tmp_path, out, tiny_model, monkeypatch
):
    """The first pass over a long recording succeeds, the second does not."""
    long, short = tmp_path / "long.wav", tmp_path / "short.wav"
    write(long, np.tile(voice(1, 1.0), 70))
    write(short, voice(2, 0.5))
    blocks = part_module.embed_decoded

    def shortened(decoded, embedder, progress):
        for item in blocks(decoded, embedder, progress):
            if getattr(getattr(item, "record", None), "file", "") == str(long):
                soundfile.write(long, np.zeros(16000, np.float32), 16000)  # somebody writes it anew
            yield item

    monkeypatch.setattr(part_module, "embed_decoded", shortened)
    monkeypatch.setattr("serab_byols.inference.streaming.BLOCK_FRAMES", 8, raising=False)
    summary = embed_dataset([short, long, short], out, tiny_model, timestamps=True, hop_size=20)
    table = pandas.read_parquet(out)
    assert set(table["file"]) == {str(short)}
    assert summary.n_errors == 1
    assert "became shorter" in errors_of(out)["error"][0]


def test_names_that_no_table_can_hold_are_errors(tmp_path, out, tiny_model):
    folder = not_utf8_folder(tmp_path)
    (folder / "a.wav").touch()
    summary = embed_dataset(folder, out, tiny_model)
    assert summary.n_errors >= 1
    assert "not valid UTF-8" in errors_of(out)["error"][0]
    assert embed_dataset(folder, out, tiny_model).n_errors == summary.n_errors
    assert embed_dataset(folder, out, tiny_model, append=True).n_segments == summary.n_segments


def test_folders_are_listed_without_sorting_for_a_dataset(tmp_path, monkeypatch):
    for name in "cab":
        (tmp_path / f"{name}.wav").touch()
    monkeypatch.setattr("builtins.sorted", lambda *_, **__: pytest.fail("sorted"))
    listed = [segment.file for segment in Inputs(tmp_path, in_order=False)]
    monkeypatch.undo()
    assert sorted(listed) == [str(tmp_path / f"{name}.wav") for name in "abc"]


# The command


def test_the_command_writes_a_dataset_and_goes_on(clips, out, tiny_checkpoint, expected, capfd):
    arguments = ["embed", str(clips), "-o", f"{out}/", "--model", str(tiny_checkpoint), "--part-size", "4"]
    assert cli.main(arguments) == 1
    told = capfd.readouterr()
    assert told.out == f"{out}: 9 clips in 3 files, 9 of them embedded now\n"
    assert f"2 of 11 clips could not be embedded (see {out}/__run/errors.csv)" in told.err
    assert_complete(out, expected)
    assert cli.main([*arguments[:-2], "--retry-errors"]) == 1
    assert "0 of them embedded now" in capfd.readouterr().out


def test_options_of_a_folder_need_one(clips, tmp_path, capfd):
    for options in (["--append"], ["--retry-errors"], ["--part-size", "3"]):
        assert cli.main(["embed", str(clips), "-o", str(tmp_path / "x.parquet"), *options]) == 2
        assert "end the output in a slash" in capfd.readouterr().err


def test_errors_are_found_by_part(clips, out, tiny_model):
    run(clips, out, tiny_model)
    found = [failure for _, failures in failures_by_part(LocalStorage(out)) for failure in failures.values()]
    assert sorted(os.path.basename(failure.file) for failure in found) == list(BAD)


def test_an_observer_is_told_of_every_segment(clips, out, tiny_model):
    class Noted(NoObserver):
        def __init__(self):
            self.started, self.n_done, self.failed = [], 0, []

        def start(self, n_segments, n_done, passed_over):
            self.started.append((n_segments, n_done))

        def advance(self, n_segments):
            self.n_done += n_segments

        def fail(self, failure):
            self.failed.append(os.path.basename(failure.file))

    observer = Noted()
    run(clips, out, tiny_model, observer=observer)
    assert (observer.started, observer.n_done) == ([(N_CLIPS, 0)], N_CLIPS)
    assert sorted(observer.failed) == list(BAD)
    (out / "part-000002.parquet").unlink()
    observer = Noted()
    run(clips, out, tiny_model, observer=observer)
    assert (observer.started, observer.n_done) == ([(N_CLIPS, 8)], N_CLIPS - 8)


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("seconds", [2, 70])
def test_a_recording_that_was_cut_off_has_its_rows_and_is_an_error(
    tmp_path, out, tiny_model, tiny_checkpoint, capfd, timestamps, seconds
):
    cut, whole = tmp_path / "cut.wav", tmp_path / "whole.wav"
    for path in (cut, whole):
        write(path, np.tile(voice(1, 1.0), seconds))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    options = {"timestamps": timestamps, "hop_size": 500, "part_size": 2}
    for retry_errors in (False, True):
        summary = embed_dataset([whole, cut, whole], out, tiny_model, **options, retry_errors=retry_errors)
        assert (summary.n_errors, summary.n_partial) == (1, 1)
        assert summary.n_embedded == (1 if retry_errors else 3)
        (error,) = errors_of(out)["error"]
        assert error.startswith(f"{cut}: ends early: the header states {seconds} s, ")
        table = pandas.read_parquet(out)
        assert list(dict.fromkeys(table["file"])) == [str(whole), str(cut)]
        assert sum(table["file"] == str(whole)) == 2 * (2 * seconds + 1 if timestamps else 1)
        assert table["end"][table["file"] == str(cut)].max() == pytest.approx(seconds / 2, abs=0.01)
    command = ["embed", str(whole), str(cut), "--model", str(tiny_checkpoint), "-o"]
    for output in (str(tmp_path / "table.parquet"), f"{tmp_path}/folder/"):
        assert cli.main([*command, output]) == 1
        assert "1 of 2 clips could not be embedded, or not as a whole (1)" in capfd.readouterr().err
    assert len(pandas.read_parquet(tmp_path / "table.parquet")) == 2
    assert "ends early" in (tmp_path / "table.parquet.errors.csv").read_text()


def test_thousands_of_errors_do_not_fill_the_terminal(tmp_path, out, tiny_checkpoint, capfd):
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"missing-{i}.wav\n" for i in range(500)))
    for output in (f"{out}/", str(tmp_path / "table.npz")):
        arguments = ["embed", str(tmp_path / "list.csv"), "-o", output, "--model", str(tiny_checkpoint)]
        assert cli.main([*arguments, "--quiet"]) == 1
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) < 25
        assert "and 480 more errors; all 500 are in " in "".join(lines)

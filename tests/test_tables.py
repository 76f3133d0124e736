"""Tables on disk: what is in them, and that they appear whole or not at all."""

import json
import os
import stat
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from serab_byols import Record, save_checkpoint
from serab_byols.atomic_write import atomic_write
from serab_byols.corpus import tables
from serab_byols.corpus.tables import METADATA_KEY, TableFormat, check_output, open_table
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import InvalidInputError, MissingExtraError

SIZE = 5
METADATA = {"encoder": "default", "weights": "résumé.safetensors"}
suffixes = pytest.mark.parametrize("suffix", [".parquet", ".npz"])
scenes_and_frames = pytest.mark.parametrize("timestamps", [False, True])


def scenes(n=4):
    rng = np.random.default_rng(0)
    return [
        Record(name, 0.5 * i, 0.5 * i + 0.25, rng.standard_normal(SIZE).astype(np.float32))
        for i, name in zip(range(n), ["b.wav", "a.wav", "söz, 音.wav", "b.wav"])
    ]


def frames(n=3):
    rng = np.random.default_rng(1)
    return [
        Record(
            file=f"{i}.wav",
            start=np.arange(i + 2) * 0.1,
            end=np.arange(i + 2) * 0.1 + 0.2,
            embedding=rng.standard_normal((i + 2, SIZE)).astype(np.float32),
            time=np.arange(i + 2) * 0.1 + 0.1,
        )
        for i in range(n)
    ]


def save(path, records, timestamps=False):
    with open_table(path, TableFormat(VectorFormat(SIZE), timestamps, METADATA)) as table:
        for record in records:
            table.add(record, {})
    assert table.n_rows == sum(np.size(record.start) for record in records)
    return path


def load(path):
    """Columns by name, and the metadata, of a table of either format."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
        return columns, json.loads(str(columns.pop("metadata")))
    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    columns["embedding"] = np.stack(columns["embedding"])
    return columns, json.loads(table.schema.metadata[METADATA_KEY.encode()])


def expected_columns(records, timestamps):
    columns = {
        "file": np.repeat([record.file for record in records], [np.size(record.start) for record in records]),
        "start": np.hstack([record.start for record in records]),
        "end": np.hstack([record.end for record in records]),
        "embedding": np.vstack([record.embedding for record in records]),
    }
    if timestamps:
        columns["time"] = np.hstack([record.time for record in records])
    return columns


# Contents


@suffixes
@scenes_and_frames
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_a_table_holds_the_records(tmp_path, monkeypatch, suffix, timestamps, block_bytes):
    monkeypatch.setattr(tables, "_ROW_GROUP_BYTES", block_bytes)
    records = frames() if timestamps else scenes()
    columns, metadata = load(save(tmp_path / f"out{suffix}", records, timestamps))
    expected = expected_columns(records, timestamps)
    assert set(columns) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)
    assert (columns["start"].dtype, columns["embedding"].dtype) == (np.float64, np.float32)
    assert metadata == METADATA


@scenes_and_frames
def test_the_parquet_schema(tmp_path, timestamps):
    path = save(tmp_path / "out.parquet", frames() if timestamps else scenes(), timestamps)
    schema = pyarrow.parquet.read_schema(path)
    fields = [("file", pyarrow.string()), ("start", pyarrow.float64()), ("end", pyarrow.float64())]
    fields += [("time", pyarrow.float64())] * timestamps
    fields += [("embedding", pyarrow.list_(pyarrow.float32(), SIZE))]
    assert list(zip(schema.names, schema.types)) == fields


def test_rows_are_written_in_blocks_so_that_memory_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROW_GROUP_BYTES", 2 * SIZE * 4)
    path = save(tmp_path / "out.parquet", scenes(4))
    assert pyarrow.parquet.ParquetFile(path).metadata.num_row_groups == 2


# Whole or not at all


@suffixes
@pytest.mark.parametrize(("error", "exists"), [(RuntimeError, True), (KeyboardInterrupt, False)])
def test_a_failed_run_leaves_the_folder_as_it_was(tmp_path, monkeypatch, suffix, error, exists):
    monkeypatch.setattr(tables, "_ROW_GROUP_BYTES", 1)  # rows reach the disk at once
    path = tmp_path / f"out{suffix}"
    if exists:
        path.write_bytes(b"old")

    def failing():
        yield from scenes()
        raise error

    with pytest.raises(error):
        save(path, failing())
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"old")] * exists


@suffixes
def test_the_old_table_stays_until_the_new_one_is_complete(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(tables, "_ROW_GROUP_BYTES", 1)
    path = save(tmp_path / f"out{suffix}", scenes(1))
    with open_table(path, TableFormat(VectorFormat(SIZE), False, METADATA)) as table:
        for record in scenes(3):
            table.add(record, {})
            assert len(load(path)[0]["file"]) == 1
    assert len(load(path)[0]["file"]) == 3
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "out.npz"
    path.touch()
    path.chmod(0o640)
    with atomic_write(path) as scratch:
        scratch.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_that_the_umask_gives_whatever_writes_it(tmp_path, tiny_model):
    plain = tmp_path / "plain"
    plain.touch()
    weights = save_checkpoint(tiny_model, tmp_path / "weights.safetensors")
    assert stat.S_IMODE(weights.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# Outputs that cannot be written


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.csv", r"must end in \.parquet or \.npz, got 'out\.csv'"),
        ("out", r"must end in \.parquet or \.npz, got 'out'"),
        ("folder.npz", "is a folder"),
        ("missing/out.npz", "folder .*missing does not exist"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name, message):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InvalidInputError, match=message):
        check_output(tmp_path / name)


def test_without_pyarrow_the_error_says_what_to_install_and_npz_works(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[parquet\]'"):
        check_output(tmp_path / "out.parquet")
    assert len(load(save(tmp_path / "out.npz", scenes()))[0]["file"]) == 4

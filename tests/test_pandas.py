"""to_frame: records as a table with the index of audformat and openSMILE."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serab_byols import ByolsModel, Record, embed_file, embed_files
from serab_byols.errors import InvalidInputError, MissingExtraError

pd = pytest.importorskip("pandas")

from serab_byols.integrations.pandas import column_names, segments_of, to_frame  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

RATES_HZ = (8000, 11025, 16000, 22050, 44100, 48000)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Recordings whose durations are not whole milliseconds, one name with a comma and an accent."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    paths = [folder / f"{rate}, né.wav" for rate in RATES_HZ]
    for path, rate in zip(paths, RATES_HZ):
        soundfile.write(path, rng.uniform(-0.5, 0.5, rate + int(rng.integers(1, rate))), rate)
    return [str(path) for path in paths]


def scene(file: str = "a.wav", size: int = 3) -> Record:
    return Record(file, 0.0, 1.5, np.arange(size, dtype=np.float32))


def test_scenes(tiny_model: ByolsModel, files: list[str]) -> None:
    records = list(embed_files(files, tiny_model))
    frame = to_frame(iter(records))
    assert list(frame.columns) == column_names(16) == [f"byols_{i}" for i in range(16)]
    assert list(frame.index.get_level_values("file")) == files
    assert set(frame.dtypes) == {np.dtype("float32")}
    np.testing.assert_array_equal(frame.to_numpy(), np.stack([record.embedding for record in records]))
    ends = frame.index.get_level_values("end")
    np.testing.assert_allclose(ends.total_seconds(), [record.end for record in records], rtol=0, atol=2e-9)
    assert ends.dtype == "timedelta64[ns]"


def test_one_record_and_another_prefix() -> None:
    frame = to_frame(scene(), prefix="a")
    assert list(frame.columns) == ["a0", "a1", "a2"]
    assert frame.index.tolist() == [("a.wav", pd.Timedelta(0), pd.Timedelta(1500, "ms"))]


def test_frames(tiny_model: ByolsModel, files: list[str]) -> None:
    """Of many records in one call, and of one."""
    records = list(embed_files(files[:2], tiny_model, timestamps=True, hop_size=250))
    frame = to_frame(records)
    assert list(frame.columns) == ["time", *column_names(16)]
    np.testing.assert_array_equal(
        frame.drop(columns="time").to_numpy(), np.concatenate([record.embedding for record in records])
    )
    for record in records:
        rows = frame.loc[record.file]
        np.testing.assert_allclose(rows["time"].dt.total_seconds(), record.time, rtol=0, atol=2e-9)
        for level in ("start", "end"):
            times = rows.index.get_level_values(level).total_seconds()
            np.testing.assert_allclose(times, getattr(record, level), rtol=0, atol=2e-9)
        pd.testing.assert_frame_equal(to_frame(record), frame.loc[[record.file]])


def test_it_joins_with_a_table_of_opensmile(tiny_model: ByolsModel, files: list[str]) -> None:
    opensmile = pytest.importorskip("opensmile")
    smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02)
    handcrafted = smile.process_files(files)
    frame = to_frame(embed_files(files, tiny_model))
    for joined in (frame.join(handcrafted), handcrafted.join(frame), pd.concat([frame, handcrafted], axis=1)):
        assert joined.shape == (len(files), 16 + 88)
        assert not joined.isna().any(axis=None)
        np.testing.assert_array_equal(joined[frame.columns].to_numpy(), frame.to_numpy())
    # The check can fail: a nanosecond is enough.
    shifted = frame.set_axis(
        frame.index.set_levels(frame.index.levels[2] + pd.Timedelta(1, "ns"), level="end"), axis=0
    )
    assert shifted.join(handcrafted)[handcrafted.columns].isna().all(axis=None)


def test_segments_of_an_index(tiny_model: ByolsModel, files: list[str]) -> None:
    """Times are those asked for, though at 11025 Hz no segment begins at 0.1 s; a join needs them."""
    audformat = pytest.importorskip("audformat")
    opensmile = pytest.importorskip("opensmile")
    index = audformat.segmented_index(files, [0.1] * len(files), [0.75] * len(files))
    records = list(embed_files(segments_of(index), tiny_model))
    assert any(record.start != 0.1 for record in records)
    frame = to_frame(records, index=index)
    pd.testing.assert_index_equal(frame.index, index)
    smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02)
    handcrafted = smile.process_index(index, preserve_index=True)
    assert not frame.join(handcrafted).isna().any(axis=None)
    assert to_frame(records).join(handcrafted).isna().any(axis=None)


@pytest.mark.parametrize("ends", [[0.5, None], None])
def test_an_index_with_open_ends(tiny_model: ByolsModel, files: list[str], ends: list | None) -> None:
    audformat = pytest.importorskip("audformat")
    index = (
        audformat.filewise_index(files[:2])
        if ends is None
        else audformat.segmented_index(files[:2], [0, 0.2], ends)
    )
    records = list(embed_files(segments_of(index), tiny_model))
    whole = to_frame(embed_files(files[:2], tiny_model))
    frame = to_frame(records, index=index)
    assert frame.index[1][2] == whole.index[1][2]
    assert frame.index[1][1] == pd.Timedelta(0 if ends is None else 0.2, "s")
    if ends is None:
        pd.testing.assert_frame_equal(frame, whole)


def test_an_index_of_other_segments_is_refused(tiny_model: ByolsModel, files: list[str]) -> None:
    audformat = pytest.importorskip("audformat")
    index = audformat.segmented_index(files[:2], [0.1, 0.1], [0.5, 0.5])
    records = list(embed_files(segments_of(index), tiny_model))
    with pytest.raises(InvalidInputError, match=r"2 segments of other files .* or in another order"):
        to_frame(records, index=index[::-1])
    with pytest.raises(InvalidInputError, match="1 segments of other files than the 2 records"):
        to_frame(records, index=index[:1])
    with pytest.raises(InvalidInputError, match="other times"):
        to_frame(records, index=audformat.segmented_index(files[:2], [0.1, 0.2], [0.5, 0.5]))
    frames = list(embed_files(segments_of(index), tiny_model, timestamps=True))
    with pytest.raises(InvalidInputError, match="for scenes"):
        to_frame(frames, index=index)
    for other in (pd.Index(files), pd.RangeIndex(3), files):
        with pytest.raises(InvalidInputError, match="levels"):
            segments_of(other)


def test_audformat_takes_the_index(tiny_model: ByolsModel, files: list[str]) -> None:
    audformat = pytest.importorskip("audformat")
    frame = to_frame(embed_files(files, tiny_model))
    for each in (frame, to_frame(embed_files(files, tiny_model, timestamps=True))):
        audformat.assert_index(each.index)
        audformat.assert_no_duplicates(each.index)
        assert audformat.is_segmented_index(each.index)
    database = audformat.Database("embeddings")
    database.schemes["byols_0"] = audformat.Scheme("float")
    database["table"] = audformat.Table(frame.index)
    database["table"]["byols_0"] = audformat.Column(scheme_id="byols_0")
    database["table"]["byols_0"].set(frame["byols_0"].to_numpy())
    assert database["table"].df.shape == (len(files), 1)


def test_frames_of_a_short_clip_differ_in_time(tiny_model: ByolsModel, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(4800), 16000)
    record = embed_file(tmp_path / "a.wav", tiny_model, timestamps=True, hop_size=100)
    frame = to_frame(record)
    assert frame.index.nunique() == 1
    assert frame["time"].dt.total_seconds().tolist() == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "at least one record"),
        ([scene(), "a.wav"], "records of embed_file or embed_files, got str"),
        ([scene(), scene(size=4)], "scenes of size 3 and scenes of size 4"),
        (
            [scene(), replace(scene(), embedding=np.zeros((1, 3), np.float32), time=np.zeros(1))],
            "frames of size 3 and scenes of size 3",
        ),
    ],
)
def test_what_makes_no_table(records: list, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        to_frame(records)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[pandas\]'"):
        to_frame(scene())

"""Files, folders and CSV lists as segments."""

from pathlib import Path

import pytest

from serab_byols.corpus.listing import find_segments
from serab_byols.corpus.segments import Segment, as_segment
from serab_byols.errors import InvalidInputError


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def csv_list(folder, text, name="list.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def files_in(*inputs):
    return [segment.file for segment in find_segments(map(str, inputs))]


def test_a_path_is_a_segment_and_a_segment_stays_itself():
    assert as_segment(Path("a.wav")) == as_segment("a.wav") == Segment("a.wav", Path("a.wav"))
    segment = Segment("a.wav", Path("b.wav"), 1.0, 2.0)
    assert as_segment(segment) is segment


def test_files_keep_their_names_and_may_have_any_suffix():
    names = ["some/../clip.wav", "notes.txt", "clip"]
    assert find_segments(names) == [Segment(name, Path(name)) for name in names]


# Folders


def test_a_folder_gives_its_audio_files_in_order_of_name_and_then_its_subfolders(tmp_path):
    names = ["a.flac", "b.WAV", "c.aif", "d.aiff", "also/x.opus", "deep/y.Ogg", "deep/er/z.mp3"]
    others = ["a.txt", "list.csv", "wav", "a.wav.bak", "._a.wav", ".trash/b.wav"]
    make_files(tmp_path, *reversed(names), *others)
    expected = [Segment(str(tmp_path / name), tmp_path / name) for name in names]
    assert find_segments([str(tmp_path)]) == expected


def test_a_folder_s_files_are_named_as_the_folder_was_given(tmp_path, monkeypatch):
    make_files(tmp_path, "clips/a.wav")
    monkeypatch.chdir(tmp_path)
    assert files_in("clips", "./clips") == [str(Path("clips/a.wav")), "./clips/a.wav"]


def test_a_folder_may_have_the_suffix_of_a_file(tmp_path):
    make_files(tmp_path, "x.wav/inside.wav", "y.csv/inside.wav")
    inside = [str(tmp_path / name / "inside.wav") for name in ("x.wav", "y.csv")]
    assert files_in(tmp_path / "x.wav", tmp_path / "y.csv") == inside
    assert files_in(tmp_path) == inside


def test_a_folder_without_audio_is_a_problem(tmp_path):
    make_files(tmp_path, "notes.txt", "sub/more.txt")
    (segment,) = find_segments([str(tmp_path)])
    assert (segment.file, segment.problem) == (str(tmp_path), "no audio files in this folder")


def test_inputs_keep_their_order_and_may_repeat(tmp_path):
    make_files(tmp_path, "folder/b.wav")
    inputs = ["z.wav", tmp_path / "folder", csv_list(tmp_path, "path\nc.wav\n"), "a.wav", "z.wav"]
    assert files_in(*inputs) == ["z.wav", str(tmp_path / "folder/b.wav"), "c.wav", "a.wav", "z.wav"]


# CSV lists


def test_relative_paths_are_relative_to_the_csv_and_absolute_ones_stay(tmp_path):
    (tmp_path / "lists").mkdir()
    names = ["a.wav", "../b.wav", str(tmp_path / "c.wav")]
    segments = find_segments([csv_list(tmp_path, "\n".join(["path", *names]), "lists/list.csv")])
    assert segments == [Segment(name, tmp_path / "lists" / name) for name in names]


def test_start_and_end_are_optional_in_every_row(tmp_path):
    text = "end,speaker,path,start\n2.5,x,a.wav,1\n,x,a.wav,\n1e1,x,a.wav, 0.5 \ninf,x,a.wav,0\n,,b.wav\n"
    segments = find_segments([csv_list(tmp_path, text)])
    bounds = [(1.0, 2.5), (None, None), (0.5, 10.0), (0.0, None), (None, None)]
    assert [(segment.start_s, segment.end_s) for segment in segments] == bounds
    assert not any(segment.problem for segment in segments)


@pytest.mark.parametrize(
    ("name", "text", "encoding", "file"),
    [
        ("list.csv", "path\na.wav\n", "utf-8-sig", "a.wav"),  # spreadsheets write a byte order mark
        ("LIST.CSV", "path\r\na.wav\r\n", "utf-8", "a.wav"),
        ("list.csv", '"path"\n"a.wav"', "utf-8", "a.wav"),
        ("list.csv", "path\n\na.wav\n\n", "utf-8", "a.wav"),
        ("list.csv", 'path\n"a, ""b"".wav"\n', "utf-8", 'a, "b".wav'),
        ("list.csv", "path\nsöz 音.wav\n", "utf-8", "söz 音.wav"),
    ],
)
def test_common_csv_dialects_are_read(tmp_path, name, text, encoding, file):
    segments = find_segments([csv_list(tmp_path, text, name, encoding)])
    assert segments == [Segment(file, tmp_path / file)]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.wav,abc,", "start is not a number of seconds: 'abc'"),
        ("a.wav,nan,", "start is not a number of seconds: 'nan'"),
        ('a.wav,"1,5",', "start is not a number of seconds: '1,5'"),
        ("a.wav,,0:30", "end is not a number of seconds: '0:30'"),
        ("a.wav,0,-0.5", "end must be a time within the file in seconds, got -0.5"),
        ("a.wav,inf,", "start must be a time within the file in seconds, got inf"),
        (",0,1", "a row of {csv} has an empty path"),
    ],
)
def test_a_bad_row_affects_no_other(tmp_path, row, problem):
    csv = csv_list(tmp_path, f"path,start,end\ngood.wav,0,1\n{row}\ngood.wav,1,2\n")
    first, bad, last = find_segments([csv])
    assert bad.problem == problem.format(csv=csv)
    assert (first.problem, last.problem) == (None, None)


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("path;start\na.wav;0\n", "utf-8", r"needs a column named 'path'; it has \['path;start'\]"),
        ("", "utf-8", "needs a column named 'path'; it has no header"),
        ("path\nrésumé.wav\n", "latin-1", "cannot be read: 'utf-8' codec"),
        (None, "", "cannot be read: .*No such file"),
    ],
)
def test_the_error_of_an_unreadable_csv_names_it(tmp_path, text, encoding, message):
    csv = str(tmp_path / "list.csv") if text is None else csv_list(tmp_path, text, encoding=encoding)
    with pytest.raises(InvalidInputError, match=message) as caught:
        find_segments([csv])
    assert csv in str(caught.value)

"""Files, folders and CSV lists as segments."""

from pathlib import Path

import pytest

from serab_byols.corpus.segments import Segment, as_segment, find_segments
from serab_byols.errors import InvalidInputError


def make_files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listing(folder, text, name="list.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_a_file_keeps_its_name_as_given():
    (segment,) = find_segments(["some/../clip.wav"])
    assert segment == Segment("some/../clip.wav", Path("some/../clip.wav"))


def test_a_file_named_explicitly_may_have_any_ending():
    assert [segment.file for segment in find_segments(["notes.txt", "clip"])] == ["notes.txt", "clip"]


def test_a_path_is_a_segment_and_a_segment_stays_itself():
    assert as_segment(Path("a.wav")) == as_segment("a.wav") == Segment("a.wav", Path("a.wav"))
    segment = Segment("a.wav", Path("b.wav"), 1.0, 2.0)
    assert as_segment(segment) is segment


# Folders


def test_a_folder_gives_its_audio_files_and_those_of_its_subfolders_in_order_of_name(tmp_path):
    make_files(tmp_path, "b.wav", "a.flac", "deep/er/z.mp3", "deep/y.ogg", "also/x.opus")
    files = [segment.file for segment in find_segments([str(tmp_path)])]
    names = ["a.flac", "b.wav", "also/x.opus", "deep/y.ogg", "deep/er/z.mp3"]
    assert files == [str(tmp_path / name) for name in names]


def test_a_folder_s_files_are_found_under_the_name_that_was_given(tmp_path, monkeypatch):
    make_files(tmp_path, "clips/a.wav")
    monkeypatch.chdir(tmp_path)
    assert [segment.file for segment in find_segments(["clips", "./clips"])] == [
        str(Path("clips/a.wav")),
        "./clips/a.wav",
    ]


@pytest.mark.parametrize("name", ["a.WAV", "a.Flac", "a.aif", "a.aiff", "a.ogg", "a.opus", "a.mp3"])
def test_audio_in_folders_is_known_by_its_ending_in_any_case(tmp_path, name):
    make_files(tmp_path, name)
    (segment,) = find_segments([str(tmp_path)])
    assert segment == Segment(str(tmp_path / name), tmp_path / name)


def test_in_folders_other_files_and_hidden_ones_are_passed_over(tmp_path):
    make_files(tmp_path, "a.wav", "a.txt", "list.csv", "wav", "a.wav.bak", "._a.wav", ".trash/b.wav")
    assert [segment.file for segment in find_segments([str(tmp_path)])] == [str(tmp_path / "a.wav")]


def test_a_folder_with_the_ending_of_a_file_is_a_folder(tmp_path):
    make_files(tmp_path, "x.wav/inside.wav", "y.csv/inside.wav")
    for folder in (tmp_path / "x.wav", tmp_path / "y.csv"):
        assert [segment.file for segment in find_segments([str(folder)])] == [str(folder / "inside.wav")]
    assert len(find_segments([str(tmp_path)])) == 2


@pytest.mark.parametrize("names", [[], ["notes.txt", "sub/more.txt"]])
def test_a_folder_without_audio_is_a_problem(tmp_path, names):
    make_files(tmp_path, *names)
    (segment,) = find_segments([str(tmp_path)])
    assert (segment.file, segment.problem) == (str(tmp_path), "no audio files in this folder")


def test_inputs_keep_their_order_and_may_repeat(tmp_path):
    make_files(tmp_path, "folder/b.wav")
    csv = listing(tmp_path, "path\nc.wav\n")
    inputs = ["z.wav", str(tmp_path / "folder"), csv, "a.wav", "z.wav"]
    files = [segment.file for segment in find_segments(inputs)]
    assert files == ["z.wav", str(tmp_path / "folder/b.wav"), "c.wav", "a.wav", "z.wav"]


# CSV lists


def test_relative_paths_are_relative_to_the_csv_and_absolute_ones_stay(tmp_path):
    (tmp_path / "lists").mkdir()
    text = f"path\na.wav\n../b.wav\n{tmp_path / 'c.wav'}\n"
    segments = find_segments([listing(tmp_path, text, "lists/list.csv")])
    assert [segment.file for segment in segments] == ["a.wav", "../b.wav", str(tmp_path / "c.wav")]
    assert [segment.path for segment in segments] == [
        tmp_path / "lists/a.wav",
        tmp_path / "lists/../b.wav",
        tmp_path / "c.wav",
    ]


def test_start_and_end_pick_a_segment_and_may_be_left_empty(tmp_path):
    text = "end,speaker,path,start\n2.5,x,a.wav,1\n,x,a.wav,\n1e1,x,a.wav, 0.5 \ninf,x,a.wav,0\n,,b.wav\n"
    segments = find_segments([listing(tmp_path, text)])
    assert [(segment.start_s, segment.end_s) for segment in segments] == [
        (1.0, 2.5),
        (None, None),
        (0.5, 10.0),
        (0.0, None),
        (None, None),
    ]
    assert not any(segment.problem for segment in segments)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path\na.wav\n", "utf-8-sig"),  # spreadsheet programs write a byte order mark
        ("path\r\na.wav\r\n", "utf-8"),
        ('"path"\n"a.wav"', "utf-8"),
        ("path\n\na.wav\n\n", "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "LIST.CSV"])
def test_the_usual_ways_to_write_a_csv_are_read(tmp_path, text, encoding, name):
    segments = find_segments([listing(tmp_path, text, name, encoding)])
    assert segments == [Segment("a.wav", tmp_path / "a.wav")]


def test_names_may_hold_commas_quotes_and_other_scripts(tmp_path):
    segments = find_segments([listing(tmp_path, 'path\n"a, ""b"".wav"\nsöz 音.wav\n')])
    assert [segment.file for segment in segments] == ['a, "b".wav', "söz 音.wav"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a.wav,abc,", "start is not a number of seconds: 'abc'"),
        ("a.wav,nan,", "start is not a number of seconds: 'nan'"),
        ('a.wav,"1,5",', "start is not a number of seconds: '1,5'"),
        ("a.wav,,0:30", "end is not a number of seconds: '0:30'"),
        ("a.wav,-1,", "start must be a time within the file in seconds, got -1"),
        ("a.wav,0,-0.5", "end must be a time within the file in seconds, got -0.5"),
        ("a.wav,inf,", "start must be a time within the file in seconds, got inf"),
        (",0,1", "a row of {csv} has an empty path"),
    ],
)
def test_a_bad_row_is_a_problem_of_its_own(tmp_path, row, problem):
    csv = listing(tmp_path, f"path,start,end\ngood.wav,0,1\n{row}\ngood.wav,1,2\n")
    first, bad, last = find_segments([csv])
    assert bad.problem == problem.format(csv=csv)
    assert (first.problem, last.problem) == (None, None)


def test_a_csv_without_rows_gives_nothing(tmp_path):
    assert find_segments([listing(tmp_path, "path\n")]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,start\na.wav,0\n", r"needs a column named 'path'; it has \['file', 'start'\]"),
        ("path;start\na.wav;0\n", r"needs a column named 'path'; it has \['path;start'\]"),
        ("a.wav\n", r"needs a column named 'path'; it has \['a.wav'\]"),
        ("", "needs a column named 'path'; it has no header"),
    ],
)
def test_a_csv_without_a_path_column_is_refused(tmp_path, text, message):
    csv = listing(tmp_path, text)
    with pytest.raises(InvalidInputError, match=message) as caught:
        find_segments([csv])
    assert str(caught.value).startswith(csv)


def test_a_csv_that_is_missing_or_not_utf8_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"cannot be read: .*No such file"):
        find_segments([str(tmp_path / "missing.csv")])
    with pytest.raises(InvalidInputError, match="cannot be read: 'utf-8' codec"):
        find_segments([listing(tmp_path, "path\nrésumé.wav\n", encoding="latin-1")])

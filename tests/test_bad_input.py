"""Bad and odd input gives a clear error or the right number, never a silently wrong one."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sounds import voice, write

import serab_byols
from serab_byols import (
    Record,
    create_model,
    embed_audio,
    embed_file,
    embed_files,
    load_model,
    save_checkpoint,
)
from serab_byols.atomic_write import atomic_write
from serab_byols.cli import main
from serab_byols.corpus.listing import find_segments
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, CheckpointError, InvalidInputError
from serab_byols.inference.frame_grid import FrameGrid
from serab_byols.normalization import parse_normalization

CLIP = Path(__file__).resolve().parents[1] / "examples" / "clips" / "en_calm.flac"
SECOND = np.asarray(voice(), np.float32)[:16000]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("default", d=8)


@pytest.mark.parametrize("function", [serab_byols.get_scene_embeddings, serab_byols.get_timestamp_embeddings])
@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.full((1, 16000), 1e20), r"beyond 1e\+12"),
        (torch.full((1, 16000), -1e20), r"beyond 1e\+12"),
        (torch.full((1, 16000), float("nan")), "not finite"),
        (torch.zeros(16000, 2), r"looks like \(n_samples, n_channels\)"),
        (torch.zeros(1, 16000).to_sparse(), "dense tensor"),
        (torch.zeros(1, 16000, device="meta"), "dense tensor"),
        (np.ma.masked_array(np.zeros((1, 16000))), "masked array"),
        ([[0.0] * 100], "must be a tensor or an array, got list"),
        ([0.0] * 100, r"clip 0 is a number: pass .* torch.tensor\(samples\)\[None\]"),
        ("a.wav", "a tensor, an array, or a list of them, got str"),
    ],
)
def test_tensors_that_are_no_audio_are_refused(model, function, audio, message):
    with pytest.raises(InvalidInputError, match=message):
        function(audio, model)


def test_integers_as_floats_are_warned_of(model):
    loud = torch.from_numpy(SECOND * 32768)[None]
    with pytest.warns(UserWarning, match="Divide 16-bit samples by 32768") as warned:
        serab_byols.get_scene_embeddings(loud, model)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        serab_byols.get_scene_embeddings(loud / 32768 * 30, model)


def test_the_default_dtype_changes_nothing(model):
    clip = torch.from_numpy(SECOND)[None]
    scenes, (frames, times) = (
        f(clip, model) for f in (serab_byols.get_scene_embeddings, serab_byols.get_timestamp_embeddings)
    )
    torch.set_default_dtype(torch.float64)
    try:
        again = serab_byols.get_scene_embeddings(clip, model)
        frames_again, times_again = serab_byols.get_timestamp_embeddings(clip, model)
        dense, _ = serab_byols.get_timestamp_embeddings(clip, model, dense=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {t.dtype for t in (again, frames_again, times_again, dense)} == {torch.float32}
    torch.testing.assert_close(again, scenes)
    torch.testing.assert_close(frames_again, frames)
    assert torch.equal(times_again, times)


def test_channels_may_be_either_axis(model):
    stereo = np.stack([SECOND, 0.5 * SECOND])
    assert torch.equal(embed_audio(stereo, 16000, model), embed_audio(stereo.T, 16000, model))


@pytest.mark.parametrize("rate_hz", [1e-300, 0.001, 999, 1e7, 2**63, float("inf"), True, "16000"])
def test_impossible_rates_are_refused(model, rate_hz):
    with pytest.raises(InvalidInputError, match="sample rate must be"):
        embed_audio(SECOND, rate_hz, model)


@pytest.mark.parametrize("value", [1e20, np.nan, np.inf])
def test_impossible_values_of_arrays_are_refused(model, value):
    with pytest.raises(InvalidInputError, match="not finite"):
        embed_audio(np.full(16000, value), 44100, model)


@pytest.mark.parametrize("rate_hz", [1, 999, 2_000_000])
def test_a_file_that_states_an_impossible_rate_is_refused(tmp_path, model, rate_hz):
    soundfile.write(tmp_path / "a.wav", SECOND, rate_hz)
    with pytest.raises(AudioFileError, match="1 kHz to 1 MHz"):
        embed_file(tmp_path / "a.wav", model)


@pytest.mark.parametrize("value", [1e9, 10**400, -5, float("nan"), "50", True, None])
@pytest.mark.parametrize("which", ["frame_ms", "hop_ms"])
def test_impossible_frames_are_refused(which, value):
    with pytest.raises(InvalidInputError, match="milliseconds"):
        FrameGrid(**{"frame_ms": 1000, "hop_ms": 50, which: value}, sample_rate_hz=16000)


@pytest.mark.parametrize("pair", [(1e39, 1), (0, 1e-38), (0, 1e39), (float("nan"), 1), (0, 0), (10**400, 1)])
def test_statistics_that_no_log_mel_has_are_refused(pair):
    with pytest.raises(InvalidInputError, match="normalization"):
        parse_normalization(pair)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_only_regular_files_are_opened(tmp_path, model):
    write(tmp_path / "a.wav", voice())
    os.mkfifo(tmp_path / "b.wav")
    errors = []
    paths = find_segments([str(tmp_path)])
    records = list(embed_files(paths, model, on_error=lambda segment, error: errors.append(str(error))))
    assert len(records) == 1
    assert len(errors) == 1
    assert "is not a regular file" in errors[0]


def test_a_path_with_a_nul_character_is_refused(tmp_path, model):
    write(tmp_path / "a.wav", voice())
    with pytest.raises(AudioFileError, match="NUL"):
        embed_file(f"{tmp_path}/a.wav\0b", model)


@pytest.mark.parametrize("error", [MemoryError("too much"), RuntimeError("odd"), ValueError("strange")])
def test_whatever_reading_a_file_raises_becomes_its_error(tmp_path, model, monkeypatch, error):
    write(tmp_path / "a.wav", voice())
    write(tmp_path / "b.wav", voice())
    read = soundfile.SoundFile.read

    def fail(self, *arguments, **keywords):
        if os.fsdecode(self.name).endswith("a.wav"):
            raise error
        return read(self, *arguments, **keywords)

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    errors = []
    records = list(
        embed_files(
            [tmp_path / "a.wav", tmp_path / "b.wav"], model, on_error=lambda segment, e: errors.append(e)
        )
    )
    assert [record.file for record in records] == [str(tmp_path / "b.wav")]
    assert isinstance(errors[0], AudioFileError)
    assert str(error) in str(errors[0])


def test_a_file_that_shrinks_between_two_passes_becomes_an_error(tmp_path, model, monkeypatch):
    monkeypatch.setattr("serab_byols.corpus.decode_ahead.STREAM_S", 0.5)
    monkeypatch.setattr("serab_byols.inference.timestamps._COLUMNS_AT_ONCE", 100)
    path = tmp_path / "a.flac"
    soundfile.write(path, np.tile(SECOND, 4), 16000)
    from serab_byols.corpus.decoding import AudioClip

    blocks, passes = AudioClip.blocks, []

    def shrinking(self, rate_hz):
        passes.append(1)
        yield from [next(blocks(self, rate_hz))[:100]] if len(passes) == 2 else blocks(self, rate_hz)

    monkeypatch.setattr(AudioClip, "blocks", shrinking)
    with pytest.raises(AudioFileError, match="became shorter"):
        embed_file(path, model, timestamps=True, hop_size=10)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "GSM610"), ("AU", "G721_32"), ("AU", "G723_24"), ("WAV", "NMS_ADPCM_16")]
)
def test_telephone_formats_that_cannot_seek_are_read(tmp_path, model, monkeypatch, kind, subtype):
    path = tmp_path / "a.wav"
    try:
        soundfile.write(path, SECOND[:8000], 8000, format=kind, subtype=subtype)
    except (soundfile.LibsndfileError, ValueError) as error:
        pytest.skip(f"this libsndfile does not write {subtype}: {error}")
    whole = embed_file(path, model)
    assert np.isfinite(whole.embedding).all()
    part = embed_file(path, model, start=0.25, end=0.75)
    assert part.end - part.start == pytest.approx(0.5)
    monkeypatch.setattr("serab_byols.corpus.decode_ahead.STREAM_S", 0.1)
    frames = embed_file(path, model, timestamps=True)  # two passes over the file
    assert np.isfinite(frames.embedding).all()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("path,Start_s", "'start_s', which would be ignored: is it 'start'"),
        ("path,ends", "'ends', which would be ignored"),
        ("path,start,Start", "'start' more than once"),
        ("name,start", "needs a column named 'path'"),
    ],
)
def test_lists_with_near_misses_are_refused(tmp_path, header, message):
    (tmp_path / "list.csv").write_text(f"{header}\na.wav,0.5,1\n")
    with pytest.raises(InvalidInputError, match=message):
        find_segments([str(tmp_path / "list.csv")])


def test_headers_of_lists_are_stripped_and_folded(tmp_path):
    (tmp_path / "list.csv").write_text("Path, Start,END,speaker\na.wav,0.5,1,anna\n")
    (segment,) = find_segments([str(tmp_path / "list.csv")])
    assert (segment.start_s, segment.end_s) == (0.5, 1.0)


@pytest.mark.parametrize("start", ["0", b"0", True, [0]])
def test_times_that_are_no_numbers_are_refused(tmp_path, model, start):
    write(tmp_path / "a.wav", voice())
    with pytest.raises(InvalidInputError, match="number of seconds"):
        embed_file(tmp_path / "a.wav", model, start=start)


def test_a_segment_with_shifted_arguments_is_refused():
    with pytest.raises(InvalidInputError, match="file, path, start_s and end_s"):
        Segment("a.wav", 0.0, 1.0)


def test_records_compare_and_print_in_short():
    record = Record("a.wav", 0.0, 1.0, np.zeros(512, np.float32))
    assert record == Record("a.wav", 0.0, 1.0, np.zeros(512, np.float32))
    assert record != Record("a.wav", 0.0, 1.0, np.ones(512, np.float32))
    assert repr(record) == "Record('a.wav', 0 to 1 s, embedding (512,))"


def test_no_output_is_an_input(tmp_path, capsys):
    shutil.copy(CLIP, tmp_path / "a.npz")  # audio, whatever its name
    before = (tmp_path / "a.npz").read_bytes()
    os.link(tmp_path / "a.npz", tmp_path / "b.npz")
    for output in ("a.npz", "b.npz"):
        assert main(["embed", str(tmp_path / "a.npz"), "-o", str(tmp_path / output)]) == 2
        assert "is also an input" in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == before


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with atomic_write(tmp_path / "link.txt") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path):
    with atomic_write(tmp_path / "a.txt") as scratch:
        scratch.write_text("new")
    (tmp_path / "b.txt").write_text("new")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


@pytest.mark.parametrize("options", [["--dense"], ["--hop-size", "nan"], ["--frame-duration", "500"]])
def test_options_of_frames_are_not_ignored_for_scenes(tmp_path, capsys, options):
    write(tmp_path / "a.wav", voice())
    assert main(["embed", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.npz"), *options]) == 2
    assert "need --timestamps" in capsys.readouterr().err


def test_dense_scenes_are_refused(tmp_path, model):
    with pytest.raises(InvalidInputError, match="needs timestamps=True"):
        embed_file(tmp_path / "a.wav", model, dense=True)


def test_a_folder_in_the_place_of_the_error_table_is_found_before_the_work(tmp_path, capsys):
    write(tmp_path / "a.wav", voice())
    (tmp_path / "out.npz.errors.csv").mkdir()
    assert main(["embed", str(tmp_path / "a.wav"), "-o", str(tmp_path / "out.npz")]) == 2
    assert "out.npz.errors.csv, which is a folder" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_names_in_the_error_table_are_no_formulas_and_move_no_cursor(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path\n=1+1.wav\n\x1b[2Ja.wav\n")
    assert main(["embed", str(tmp_path / "list.csv"), "-o", str(tmp_path / "out.npz")]) == 1
    assert "\x1b" not in capsys.readouterr().err
    assert "\n'=1+1.wav," in (tmp_path / "out.npz.errors.csv").read_text()


@pytest.mark.skipif(os.name == "nt", reason="signals are sent another way there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_run_leaves_nothing_behind(tmp_path, number):
    for i in range(200):
        os.symlink(CLIP, tmp_path / f"{i}.flac")
    command = [sys.executable, "-m", "serab_byols", "embed", str(tmp_path), "-o", str(tmp_path / "out.npz")]
    # Under nohup it would be ignored, by this process and by those that it starts.
    as_usual = functools.partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=as_usual) as process:
        while not list(tmp_path.glob(".out.npz.*.part")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == 128 + number
    assert error == "serab-byols: terminated; unfinished output was removed\n"
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".flac"]


@pytest.fixture
def checkpoint(tmp_path, model):
    return save_checkpoint(model, tmp_path / "a.safetensors", statistics=(-6.0, 5.0))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"serab_byols":', b'"serab_bymls":'),
        (b'\\"normalization\\"', b'\\"normalizatioo\\"'),
        (b'\\"mean\\": -6.0', b'\\"mean\\": -4.0'),
        (b'\\"std\\": 5.0', b'\\"std\\": 4.0'),
        (b'\\"training\\": {}', b'\\"training\\": []'),
    ],
)
def test_a_damaged_description_is_seen(checkpoint, old, new):
    content = checkpoint.read_bytes()
    assert old in content
    checkpoint.write_bytes(content.replace(old, new))
    with pytest.raises(CheckpointError, match=r"damaged|wrongly"):
        load_model(checkpoint)


def test_negative_variances_are_refused(tmp_path, model):
    state = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    state["features.1.running_var"][0] = -1.0
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="negative variances"):
        load_model(tmp_path / "a.pth")


def test_loading_leaves_the_random_state_as_it_was(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(create_model("clstm"), tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    load_model(tmp_path / "a.safetensors")
    load_model()
    assert torch.equal(torch.get_rng_state(), before)

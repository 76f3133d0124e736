"""Which crops of a corpus each step takes, and what happens with files that are bad, long or short."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from sounds import write

from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.pretrain.crops import (
    MAX_CACHED_S,
    CropReader,
    Crops,
    crop_batches,
    find_clips,
    fingerprint,
    padded,
)
from serab_byols.pretrain.distributed import Share

RATE = 16000
CROP = 4000


@pytest.fixture
def folder(tmp_path):
    """Clips of 0.1, 0.5 and 1 s whose samples count up, so that a crop tells where it is from."""
    for name, n_samples in (("a", 1600), ("b", 8000), ("c", 16000)):
        write(tmp_path / f"{name}.wav", np.arange(n_samples) / 32768)
    return tmp_path


def fail(*_):
    pytest.fail("no file should be bad here")


def clips_of(*paths, on_error=fail):
    return find_clips([str(path) for path in paths], on_error)


def reader_of(clips, cache_bytes=10**9, on_error=fail):
    return CropReader(Crops(clips, CROP, batch_size=6, seed=0), cache_bytes, on_error)


def batches(reader, first=0, last=4, share=None):
    return list(crop_batches(reader, share or Share(0, 1, 6), first, last))


def test_an_epoch_visits_every_clip_once_per_crop_length(folder):
    crops = Crops(clips_of(folder), CROP, batch_size=7, seed=0)
    assert (crops.n_per_epoch, crops.steps_per_epoch) == (1 + 2 + 4, 1)
    for step in range(3):
        assert Counter(clip for clip, _ in crops.at(step)) == {0: 1, 1: 2, 2: 4}
    assert crops.at(0) != crops.at(1)


def test_what_is_given_several_times_is_drawn_from_as_often(folder):
    once, thrice = folder / "c.wav", folder / "b.wav"
    clips = clips_of(once, thrice, thrice, thrice)
    names = [clips[clip].segment.path for clip, _ in Crops(clips, CROP, 10, 0).at(0)]
    assert Counter(names) == {str(once): 4, str(thrice): 6}


def test_crops_of_a_long_clip_are_from_all_of_it(folder):
    """In the published training a sign was reversed and every crop was the first of its clip."""
    reader = reader_of(clips_of(folder / "c.wav"))
    starts = np.array([reader.read(0, at)[1][0] for at in np.linspace(0, 1 - 1e-9, 200)]) * 32768
    assert (starts.min(), starts.max()) == (0, 16000 - CROP)
    np.testing.assert_allclose(starts, np.linspace(0, 16000 - CROP, 200), atol=70)


def test_positions_are_uniform_and_decided_by_the_seed(folder):
    def positions(seed):
        crops = Crops(clips_of(folder), CROP, 7, seed)
        return np.array([at for step in range(100) for _, at in crops.at(step)])

    assert abs(positions(3).mean() - 0.5) < 0.05
    assert abs(positions(3).std() - 12**-0.5) < 0.03
    np.testing.assert_array_equal(positions(3), positions(3))
    assert (positions(4) != positions(3)).all()


def test_a_corpus_smaller_than_a_batch_fills_it(folder):
    crops = Crops(clips_of(folder / "a.wav"), CROP, batch_size=5, seed=0)
    assert [clip for clip, _ in crops.at(0)] == [0] * 5


def test_short_clips_get_zeros_on_both_sides():
    np.testing.assert_array_equal(padded(np.ones(3, np.float32), 6), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(padded(np.ones(8, np.float32), 6), np.ones(6))


def test_batches_are_the_same_from_any_step_on_and_with_any_cache(folder):
    clips = clips_of(folder)
    whole = batches(reader_of(clips), 0, 7)
    assert len(whole) == 7
    for cache_bytes, first in ((10**9, 2), (0, 0), (40_000, 6), (0, 7)):
        rest = batches(reader_of(clips, cache_bytes), first, 7)
        torch.testing.assert_close(rest, whole[first:], rtol=0, atol=0)


def test_processes_share_a_batch(folder):
    clips = clips_of(folder)
    parts = [batches(reader_of(clips), share=Share(rank, 2, 3)) for rank in range(2)]
    both = [tuple(torch.cat(halves) for halves in zip(*step)) for step in zip(*parts)]
    torch.testing.assert_close(both, batches(reader_of(clips)), rtol=0, atol=0)


def test_the_cache_keeps_no_more_than_it_may(folder):
    reader = reader_of(clips_of(folder), cache_bytes=40_000)
    batches(reader)
    assert 0 < sum(samples.nbytes for samples in reader._cached.values()) <= 40_000


def test_of_a_long_recording_only_the_crop_is_decoded(tmp_path):
    n_samples = round((MAX_CACHED_S + 5) * RATE)
    ramp = np.linspace(-0.9, 0.9, n_samples, dtype=np.float32)
    reader = reader_of(clips_of(write(tmp_path / "long.wav", ramp, subtype="FLOAT")))
    for position in (0.0, 0.4, 0.9999):
        first = round(position * (n_samples - CROP))
        np.testing.assert_allclose(reader.read(0, position)[1], ramp[first : first + CROP], atol=1e-6)
    assert not reader._cached


def test_a_list_gives_segments(folder):
    (folder / "list.csv").write_text("path,start,end\nc.wav,0.25,0.75\n")
    (clip,) = clips_of(folder / "list.csv")
    assert (clip.start_s, clip.end_s, clip.duration_s) == (0.25, 0.75, 0.5)
    assert reader_of([clip]).read(0, 0.0)[1][0] == 4000 / 32768


def test_segments_as_long_as_a_crop_are_the_crops(folder):
    """So that features of clips, such as openSMILE's, are features of the very crops."""
    rows = [f"c.wav,{start},{start + CROP / RATE}" for start in (0, 0.25, 0.5, 0.75)]
    (folder / "list.csv").write_text("\n".join(["path,start,end", *rows]))
    clips = clips_of(folder / "list.csv")
    reader = reader_of(clips)
    assert reader.crops.n_per_epoch == 4
    for number, clip in enumerate(clips):
        for position in (0.0, 0.99):
            np.testing.assert_array_equal(
                reader.read(number, position)[1], clip.read(clip.start_s, clip.end_s)
            )


def test_bad_files_are_reported_and_left_out(folder, tmp_path):
    (folder / "bad.wav").write_bytes(b"no audio at all")
    errors = {}
    clips = clips_of(folder, folder / "missing.flac", on_error=errors.__setitem__)
    assert [os.path.basename(clip.segment.path) for clip in clips] == ["a.wav", "b.wav", "c.wav"]
    assert list(errors) == [str(folder / "bad.wav"), str(folder / "missing.flac")]
    assert "cannot be read as audio" in errors[str(folder / "bad.wav")]
    assert "no such file" in errors[str(folder / "missing.flac")]
    with pytest.raises(InvalidInputError, match="no readable audio"):
        clips_of(folder / "bad.wav", on_error=errors.__setitem__)


def test_a_clip_that_cannot_be_decoded_is_replaced_by_the_next_and_reported_once(folder):
    clips, errors = clips_of(folder), []
    (folder / "b.wav").unlink()
    reader = reader_of(clips, on_error=lambda name, _: errors.append(name))
    (number, crop), (_, of_the_next) = reader.read(1, 0.3), reader.read(2, 0.3)
    np.testing.assert_array_equal(crop, of_the_next)
    assert number == 2  # the clip whose features the crop has
    reader.read(1, 0.6)
    assert errors == [str(folder / "b.wav")]
    for name in "ac":
        (folder / f"{name}.wav").unlink()
    with pytest.raises(AudioFileError, match="cannot be decoded"):
        batches(reader_of(clips, on_error=lambda *_: None))


def test_a_crop_does_not_depend_on_what_was_read_before(tmp_path):
    """Of a long recording that is damaged at its end, the beginning stays what it is."""
    noise = np.random.default_rng(0).standard_normal(RATE * 50).astype(np.float32) * 0.1
    damaged = write(tmp_path / "a.flac", noise)
    write(tmp_path / "b.wav", np.zeros(RATE * 2, np.float32))
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    errors = []
    reader = reader_of(clips_of(tmp_path), on_error=lambda name, _: errors.append(name))
    before, at_the_end, after = reader.read(0, 0.1), reader.read(0, 0.9), reader.read(0, 0.1)
    assert (before[0], at_the_end[0], after[0]) == (0, 1, 0)
    np.testing.assert_array_equal(before[1], after[1])
    assert errors == [str(damaged)]


def test_a_fingerprint_is_of_names_and_lengths(folder):
    clips = clips_of(folder)
    assert fingerprint(clips) == fingerprint(clips_of(folder)) != fingerprint(clips[:2])
    write(folder / "a.wav", np.zeros(1700))
    assert fingerprint(clips) != fingerprint(clips_of(folder))

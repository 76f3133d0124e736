"""Which crops of a corpus come when, and what happens with files that are bad, long or short."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from sounds import write

from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, InvalidInputError
from serab_byols.pretrain.corpus import (
    DECODED_WHOLE_S,
    Clip,
    CropBatches,
    CropReader,
    Crops,
    fingerprint,
    padded,
    scan,
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


def quiet(*_: str) -> None:
    pytest.fail("no file should be bad here")


def reader(clips, cache_bytes=10**9, batch_size=6, seed=0, on_error=quiet):
    return CropReader(Crops(clips, CROP, batch_size, seed), cache_bytes, on_error)


def batches(a_reader, first=0, last=4, share=None):
    return list(CropBatches(a_reader, share or Share(0, 1, 6), first, last))


def test_an_epoch_visits_every_clip_once_a_crop_length(folder):
    crops = Crops(scan([str(folder)], quiet), CROP, batch_size=7, seed=0)
    assert (crops.n_an_epoch, crops.steps_an_epoch) == (1 + 2 + 4, 1)
    for step in range(3):
        assert Counter(clip for clip, _ in crops.places(step)) == {0: 1, 1: 2, 2: 4}
    assert crops.places(0) != crops.places(1)


def test_what_is_given_several_times_is_drawn_from_as_often(folder):
    once, thrice = str(folder / "c.wav"), str(folder / "b.wav")
    clips = scan([once, thrice, thrice, thrice], quiet)
    names = [clips[clip].segment.file for clip, _ in Crops(clips, CROP, 10, 0).places(0)]
    assert Counter(names) == {once: 4, thrice: 6}


def test_crops_of_a_long_clip_are_from_all_of_it(folder):
    """In the published training a sign was reversed and every crop was the first of its clip."""
    a_reader = reader(scan([str(folder / "c.wav")], quiet))
    starts = np.array([a_reader.read(0, place)[1][0] for place in np.linspace(0, 1 - 1e-9, 200)]) * 32768
    assert starts.min() == 0
    assert starts.max() == 16000 - CROP
    np.testing.assert_allclose(starts, np.linspace(0, 16000 - CROP, 200), atol=70)


def test_places_are_uniform_and_of_a_seed(folder):
    clips = scan([str(folder)], quiet)
    places = np.array([at for step in range(100) for _, at in Crops(clips, CROP, 7, 3).places(step)])
    assert abs(places.mean() - 0.5) < 0.05
    assert abs(places.std() - 12**-0.5) < 0.03
    again = np.array([at for step in range(100) for _, at in Crops(clips, CROP, 7, 3).places(step)])
    np.testing.assert_array_equal(places, again)
    assert Crops(clips, CROP, 7, 4).places(0) != Crops(clips, CROP, 7, 3).places(0)


def test_a_corpus_smaller_than_a_batch_fills_it(folder):
    crops = Crops(scan([str(folder / "a.wav")], quiet), CROP, batch_size=5, seed=0)
    assert [clip for clip, _ in crops.places(0)] == [0] * 5


def test_short_clips_get_zeros_on_both_sides():
    np.testing.assert_array_equal(padded(np.ones(3, np.float32), 6), [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(padded(np.ones(8, np.float32), 6), np.ones(6))


def test_batches_can_be_entered_anywhere(folder):
    clips = scan([str(folder)], quiet)
    whole = batches(reader(clips), 0, 5)
    rest = batches(reader(clips), 2, 5)
    assert len(whole) == 5
    for (waveforms, numbers), (again, numbers_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(waveforms, again)
        assert torch.equal(numbers, numbers_again)


def test_the_cache_changes_nothing(folder):
    clips = scan([str(folder)], quiet)
    for room in (0, 40_000):
        for with_it, without in zip(batches(reader(clips)), batches(reader(clips, room)), strict=True):
            assert torch.equal(with_it[0], without[0])


def test_the_cache_keeps_no_more_than_it_may(folder):
    a_reader = reader(scan([str(folder)], quiet), cache_bytes=40_000)
    batches(a_reader)
    assert sum(samples.nbytes for samples in a_reader._kept.values()) <= 40_000
    assert a_reader._kept


def test_processes_share_a_batch(folder):
    clips = scan([str(folder)], quiet)
    whole = batches(reader(clips))
    parts = [batches(reader(clips), share=Share(rank, 2, 3)) for rank in range(2)]
    for step, (waveforms, numbers) in enumerate(whole):
        assert torch.equal(waveforms, torch.cat([part[step][0] for part in parts]))
        assert torch.equal(numbers, torch.cat([part[step][1] for part in parts]))


def test_of_a_long_recording_only_the_crop_is_decoded(tmp_path):
    n_samples = round((DECODED_WHOLE_S + 5) * RATE)
    ramp = np.linspace(-0.9, 0.9, n_samples, dtype=np.float32)
    path = write(tmp_path / "long.wav", ramp, subtype="FLOAT")
    a_reader = reader(scan([str(path)], quiet))
    for place in (0.0, 0.4, 0.9999):
        first = round(place * (n_samples - CROP))
        np.testing.assert_allclose(a_reader.read(0, place)[1], ramp[first : first + CROP], atol=1e-6)
    assert not a_reader._kept


def test_other_rates_and_channels_become_mono_at_16_khz(tmp_path):
    time_s = np.arange(44100) / 44100
    stereo = np.stack([np.sin(2 * np.pi * 440 * time_s), np.zeros(44100)], axis=1)
    a_reader = reader(scan([str(write(tmp_path / "s.wav", stereo, 44100))], quiet))
    _, crop = a_reader.read(0, 0.5)
    assert crop.shape == (CROP,)
    assert np.abs(np.fft.rfft(crop)).argmax() == 440 * CROP // RATE
    assert 0.45 < np.abs(crop).max() < 0.55


def test_a_list_gives_segments(folder):
    (folder / "list.csv").write_text("path,start,end\nc.wav,0.25,0.75\n")
    (clip,) = scan([str(folder / "list.csv")], quiet)
    assert (clip.start_s, clip.end_s, clip.duration_s) == (0.25, 0.75, 0.5)
    assert reader([clip]).read(0, 0.0)[1][0] == 4000 / 32768


def test_bad_files_are_told_and_left_out(folder):
    (folder / "bad.wav").write_bytes(b"no audio at all")
    told = []
    clips = scan([str(folder), str(folder / "missing.flac")], lambda *error: told.append(error))
    assert [clip.segment.path.name for clip in clips] == ["a.wav", "b.wav", "c.wav"]
    assert [name for name, _ in told] == [str(folder / "bad.wav"), str(folder / "missing.flac")]
    assert "cannot be read as audio" in told[0][1]
    assert "no such file" in told[1][1]


def test_no_readable_file_at_all_is_an_error(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(InvalidInputError, match="no readable audio"):
        scan([str(tmp_path)], lambda *_: None)


def test_a_clip_that_cannot_be_decoded_is_replaced_by_the_next_and_told_once(folder):
    broken = folder / "b.wav"
    clips = scan([str(folder)], quiet)
    broken.unlink()
    told = []
    a_reader = reader(clips, on_error=lambda *error: told.append(error))
    (number, crop), (_, of_the_next) = a_reader.read(1, 0.3), a_reader.read(2, 0.3)
    np.testing.assert_array_equal(crop, of_the_next)
    assert number == 2  # the clip whose features the crop has
    a_reader.read(1, 0.6)
    assert [name for name, _ in told] == [str(broken)]


def test_what_a_crop_is_does_not_depend_on_what_was_read_before(tmp_path):
    """Of a long recording that is damaged at its end, the beginning stays what it is."""
    noise = np.random.default_rng(0).standard_normal(RATE * 50).astype(np.float32) * 0.1
    whole = write(tmp_path / "a.flac", noise)
    write(tmp_path / "b.wav", np.zeros(RATE * 2, np.float32))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    clips = scan([str(tmp_path)], quiet)
    told = []
    a_reader = reader(clips, on_error=lambda *error: told.append(error))
    before = a_reader.read(0, 0.1)
    assert (before[0], a_reader.read(0, 0.9)[0]) == (0, 1)
    after = a_reader.read(0, 0.1)
    assert after[0] == 0
    np.testing.assert_array_equal(before[1], after[1])
    assert [name for name, _ in told] == [str(whole)]


def test_nothing_left_to_decode_is_an_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(100), RATE)
    clips = scan([str(tmp_path)], quiet)
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioFileError, match="cannot be decoded"):
        batches(reader(clips, on_error=lambda *_: None))


def test_a_fingerprint_is_of_names_and_lengths(folder):
    clips = scan([str(folder)], quiet)
    assert fingerprint(clips) == fingerprint(scan([str(folder)], quiet))
    assert fingerprint(clips) != fingerprint(clips[:2])
    longer = Clip(Segment(clips[0].segment.file, clips[0].segment.path), 0.0, 0.2)
    assert fingerprint(clips) != fingerprint([longer, *clips[1:]])

"""The class for pipelines of other libraries; with Ray Data it runs in test_ray_engine.py."""

import numpy as np
import pytest
from sounds import voice, write

from serab_byols import embed_audio, embed_file, load_model
from serab_byols.corpus import BatchEmbedder
from serab_byols.errors import InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def embed(tiny_checkpoint):
    return BatchEmbedder(tiny_checkpoint)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("column", ["path", "file"])
def test_names_become_embeddings_or_errors(tmp_path, embed, tiny_model, column):
    names = [str(write(tmp_path / f"{i}.wav", voice(i, 0.2 + i / 10))) for i in range(3)]
    names.insert(1, str(tmp_path / "missing.wav"))
    label = np.arange(5)
    rows = embed({column: np.array([*names, ""], object), "label": label})
    assert list(rows) == [column, "label", "embedding", "error"]
    assert rows["label"] is label
    assert rows["embedding"].dtype == np.float32
    missing, empty = f"{names[1]}: no such file", "(no name): a row of the batch has an empty path"
    assert rows["error"].tolist() == ["", missing, "", "", empty]
    assert np.isnan(rows["embedding"][[1, 4]]).all()
    for i in (0, 2, 3):
        close(rows["embedding"][i], embed_file(names[i], tiny_model).embedding)


def test_segments_are_embedded(tmp_path, embed, tiny_model):
    clip = str(write(tmp_path / "a.wav", voice(0, 1.0)))
    batch = {"path": [clip] * 4, "start": np.array([0.5, np.nan, 3, -1], np.float32)}
    rows = embed({**batch, "end": [0.75, None, None, None]})
    close(rows["embedding"][0], embed_file(clip, tiny_model, start=0.5, end=0.75).embedding)
    close(rows["embedding"][1], embed_file(clip, tiny_model).embedding)
    assert "outside of the file's 1 s" in rows["error"][2]
    assert "start must be a time within the file" in rows["error"][3]


def test_samples_become_embeddings_or_errors(tiny_checkpoint, tiny_model):
    arrays = np.empty(6, object)
    stereo = np.stack([voice(1, 0.3, 44100), voice(2, 0.3, 44100)])
    arrays[:] = [voice(0), stereo, np.zeros(0), voice(0).astype(int), None, [[1.0], [1.0, 2.0]]]
    rates = np.array([16000, 44100, 16000, 16000, 16000, 16000])
    embed = BatchEmbedder(tiny_checkpoint, samples="array", sample_rate="rate")
    rows = embed({"array": arrays, "rate": rates})
    close(rows["embedding"][0], embed_audio(voice(0), 16000, tiny_model))
    close(rows["embedding"][1], embed_audio(stereo, 44100, tiny_model))
    assert [bool(error) for error in rows["error"]] == [False, False, True, True, True, True]
    assert np.isnan(rows["embedding"][2:]).all()
    equal_lengths = BatchEmbedder(tiny_model, samples="array", sample_rate=16000)
    rows = equal_lengths({"array": np.stack([voice(0), voice(1)])})
    close(rows["embedding"][1], embed_audio(voice(1), 16000, tiny_model))


def test_an_empty_batch_stays_one(embed):
    assert embed({"path": np.array([], object)})["embedding"].shape == (0, embed._model.embedding_size)


def test_what_is_wrong_with_the_columns_ends_it(embed, tiny_model):
    with pytest.raises(InvalidInputError, match="need a column 'file', they have name"):
        embed({"name": ["a.wav"]})
    with pytest.raises(InvalidInputError, match="need a column 'sample_rate', they have x"):
        BatchEmbedder(tiny_model, samples="x")({"x": [voice(0)]})
    with pytest.raises(InvalidInputError, match="have a column 'error' already"):
        embed({"path": ["a.wav"], "error": [""]})


def test_a_normalization_that_batches_share_is_refused(tiny_checkpoint):
    with pytest.raises(InvalidInputError, match="shares statistics"):
        BatchEmbedder(load_model(tiny_checkpoint, normalization="batch"))

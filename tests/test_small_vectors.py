"""Embeddings in fewer dimensions and fewer bits."""

import json

import numpy as np
import pandas
import pytest
from sklearn.decomposition import PCA
from sounds import voice, write

import serab_byols
from serab_byols import cli, embed_dataset
from serab_byols.corpus.pca import fit_pca, load_pca, save_pca
from serab_byols.corpus.reading_tables import EmbeddingTable
from serab_byols.corpus.vector_format import VectorFormat
from serab_byols.errors import InvalidInputError

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(n=200, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((n, size)) * np.arange(1, size + 1) @ rng.standard_normal((size, size))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(24):
        write(folder / f"{i:02d}.wav", voice(i, 0.3))
    return folder


# Principal components


def test_components_are_scikit_learn_s_however_the_blocks_are_cut():
    x = vectors() + 5
    reference = PCA(5, svd_solver="full").fit(x)
    for blocks in ([x], np.array_split(x, 7)):
        pca = fit_pca(blocks, 5)
        np.testing.assert_allclose(pca.mean, reference.mean_, rtol=1e-4)
        np.testing.assert_allclose(pca.explained, reference.explained_variance_ratio_, rtol=1e-6)
        np.testing.assert_allclose(
            np.abs(np.sum(pca.components * reference.components_, axis=1)), 1, rtol=1e-5
        )
        np.testing.assert_allclose(np.abs(pca(x)), np.abs(reference.transform(x)), rtol=1e-3, atol=1e-3)


def test_components_are_nested_and_survive_a_file(tmp_path):
    pca = fit_pca([vectors()], 6, {"weights_sha256": "abc", "weights": "söz"})
    x = vectors(seed=1)
    np.testing.assert_allclose(pca.first(3)(x), pca(x)[:, :3], rtol=1e-5, atol=1e-5)
    loaded = load_pca(save_pca(pca, tmp_path / "x.pca.safetensors"))
    np.testing.assert_array_equal(loaded(x), pca(x))
    assert (loaded.facts, loaded.describe()) == (pca.facts, pca.describe())


def test_impossible_components_are_errors(tmp_path):
    for n in (0, 13, 300):
        with pytest.raises(InvalidInputError, match="components need as many"):
            fit_pca([vectors()], n)
    with pytest.raises(InvalidInputError, match="there are 0 and 0"):
        fit_pca([], 1)
    pca = fit_pca([vectors()], 6, {"weights_sha256": "abc"})
    with pytest.raises(InvalidInputError, match="from 1 to 6, got 7"):
        pca.first(7)
    with pytest.raises(InvalidInputError, match="weights_sha256 is 'abc' there and 'def' here"):
        pca.check_fits({"weights_sha256": "def"})
    path = save_pca(pca, tmp_path / "x.pca.safetensors")
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-100], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInputError, match=r"no principal components|damaged"):
            load_pca(path)
    with pytest.raises(InvalidInputError, match="no principal components"):
        load_pca(serab_byols.load_model().source)


# Precision


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_vectors_come_back_within_the_precision(dtype):
    x = vectors()
    stored, scale = VectorFormat(12, dtype).store(x)
    assert stored.dtype == dtype
    tolerance = {"float32": 0, "float16": 2**-11, "int8": 0.5 / 127}[dtype]
    error = np.abs(stored.astype(np.float32) * scale[:, None] - x).max(axis=1)
    assert (error <= tolerance * np.abs(x).max(axis=1) * (1 + 1e-5)).all()


def test_silence_and_extremes_are_finite():
    x = np.array([np.zeros(4), np.full(4, 1e-38), np.full(4, -3e38)], np.float32)
    stored, scale = VectorFormat(4, "int8").store(x)
    assert np.isfinite(stored * scale[:, None]).all()
    np.testing.assert_array_equal(stored[0], 0)
    np.testing.assert_array_equal(stored[2], -127)
    with pytest.raises(InvalidInputError, match="more than float16 holds"):
        VectorFormat(4, "float16").store(x)


# Tables


def test_a_table_of_int8_components(clips, tmp_path, tiny_model):
    embed_dataset(clips, tmp_path / "whole", tiny_model)
    table = EmbeddingTable(tmp_path / "whole")
    pca = fit_pca(table.blocks(), 6, table.metadata)
    embed_dataset(
        clips, tmp_path / "small", tiny_model, pca=pca.first(4), embedding_dtype="int8", part_size=7
    )
    whole = pandas.read_parquet(tmp_path / "whole")
    small = pandas.read_parquet(tmp_path / "small")
    assert list(small) == ["file", "start", "end", "scale", "embedding"]
    assert list(small["file"]) == list(whole["file"])
    expected = pca(np.stack(whole["embedding"]))[:, :4]
    actual = np.stack(small["embedding"]) * small["scale"].to_numpy()[:, None]
    np.testing.assert_allclose(actual, expected, atol=np.abs(expected).max() / 200)
    np.testing.assert_array_equal(np.concatenate(list(EmbeddingTable(tmp_path / "small").blocks())), actual)
    assert EmbeddingTable(tmp_path / "small").metadata["pca"]["dimensions"] == 4
    with pytest.raises(InvalidInputError, match=r"pca is .* there and not set now"):
        embed_dataset(clips, tmp_path / "small", tiny_model, embedding_dtype="int8", part_size=7)
    with pytest.raises(InvalidInputError, match="belong to other embeddings"):
        embed_dataset(clips, tmp_path / "other", serab_byols.create_model("default", d=16), pca=pca)


def test_the_commands(clips, tmp_path, tiny_checkpoint, capfd):
    model = ["--model", str(tiny_checkpoint)]
    whole, pca = str(tmp_path / "whole.npz"), str(tmp_path / "x.pca.safetensors")
    assert cli.main(["embed", str(clips), "-o", whole, *model]) == 0
    assert cli.main(["pca", whole, "-o", pca, "--dimensions", "8"]) == 0
    assert "8 components, " in capfd.readouterr().out
    for out in ("small.npz", "small.parquet", "small/"):
        options = ["--pca", pca, "--dimensions", "3", "--embedding-dtype", "int8"]
        assert cli.main(["embed", str(clips), "-o", f"{tmp_path}/{out}", *options, *model]) == 0
    tables = [
        np.concatenate(list(EmbeddingTable(tmp_path / n).blocks()))
        for n in ("small.npz", "small.parquet", "small")
    ]
    np.testing.assert_array_equal(tables[0], tables[1])
    np.testing.assert_allclose(np.sort(tables[0], axis=0), np.sort(tables[2], axis=0), atol=0.05)
    with np.load(tmp_path / "small.npz") as archive:
        assert archive["embedding"].dtype == np.int8
        assert json.loads(str(archive["metadata"]))["pca"]["dimensions"] == 3
    for arguments, message in (
        (
            ["embed", str(clips), "-o", "x.npz", "--dimensions", "3", *model],
            "no principal components for these",
        ),
        (
            ["embed", str(clips), "-o", "x.npz", "--dimensions", "300"],
            "dimensions must be from 1 to 256, got 300",
        ),
        (["embed", str(clips), "-o", "x.npz", "--pca", whole], "holds no principal components"),
        (["pca", str(clips), "-o", "x.safetensors"], "holds no parts of a dataset"),
        (["pca", str(clips / "00.wav"), "-o", "x.safetensors"], "is no table of embeddings"),
        (["pca", whole, "-o", whole], "is also an input"),
    ):
        assert cli.main(arguments) == 2
        assert message in capfd.readouterr().err

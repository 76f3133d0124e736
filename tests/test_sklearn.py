"""ByolsTransformer in scikit-learn's pipelines."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import serab_byols
from serab_byols import embed_audio, embed_files, get_scene_embeddings, load_model
from serab_byols.corpus.segments import Segment
from serab_byols.errors import AudioFileError, InvalidInputError, MissingExtraError

pytest.importorskip("sklearn", "1.6")
import pandas as pd
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from serab_byols.integrations.sklearn import ByolsTransformer

pytestmark = pytest.mark.usefixtures("one_thread")

EXPECTED_FAILURES = {
    "check_n_features_in_after_fitting": "clips may be of other lengths than those of fit",
    "check_estimators_dtypes": "integers are refused: their scale is not known",
}
LABELS = ["hum", "hiss"] * 6


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve recordings of two kinds, of several rates, lengths and channel counts."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for i, label in enumerate(LABELS):
        rate = (8000, 16000, 22050)[i % 3]
        n_samples = int(rate * (0.3 + 0.02 * i))
        noise = 0.05 * rng.standard_normal(n_samples)
        hum = 0.5 * np.sin(2 * np.pi * (100 + 20 * i) * np.arange(n_samples) / rate)
        samples = noise + (hum if label == "hum" else 0)
        soundfile.write(folder / f"{i}.wav", np.stack([samples, samples], 1) if i % 4 == 3 else samples, rate)
    return [str(folder / f"{i}.wav") for i in range(len(LABELS))]


@pytest.fixture
def transformer(tiny_checkpoint: Path) -> ByolsTransformer:
    return ByolsTransformer(str(tiny_checkpoint))


@pytest.fixture
def expected(paths: list[str], tiny_checkpoint: Path) -> np.ndarray:
    return np.stack([record.embedding for record in embed_files(paths, load_model(tiny_checkpoint))])


def test_the_estimator_checks(transformer: ByolsTransformer) -> None:
    results = check_estimator(
        transformer, expected_failed_checks=EXPECTED_FAILURES, on_skip=None, on_fail="raise"
    )
    failed = {result["check_name"] for result in results if result["status"] == "xfail"}
    assert failed == set(EXPECTED_FAILURES)  # none of which may pass unnoticed
    assert sum(result["status"] == "passed" for result in results) > 30


@pytest.mark.parametrize(
    "form",
    [
        list,
        tuple,
        np.array,
        lambda paths: np.array(paths, dtype=object),
        lambda paths: np.array([[path] for path in paths]),
        lambda paths: list(map(Path, paths)),
        lambda paths: np.array(list(map(Path, paths))),
        lambda paths: [Segment("x", path) for path in paths],
        pd.Series,
        lambda paths: pd.Series(paths, index=range(7, 19)),
        lambda paths: pd.DataFrame({"path": paths}),
    ],
)
def test_paths(transformer: ByolsTransformer, paths: list[str], expected: np.ndarray, form) -> None:
    embeddings = transformer.fit_transform(form(paths))
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected)


def test_arrays(transformer: ByolsTransformer, tiny_model: serab_byols.ByolsModel) -> None:
    rng = np.random.default_rng(0)
    clips = [rng.uniform(-1, 1, n) for n in (8000, 5000, 3000)]
    expected = np.stack([embed_audio(clip, 8000, tiny_model).numpy() for clip in clips])
    for dtype in (np.float32, np.float64):
        given = [clip.astype(dtype) for clip in clips]
        embeddings = transformer.set_params(sample_rate=8000).fit_transform(given)
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    tensors = [torch.from_numpy(clip).requires_grad_() for clip in clips]
    np.testing.assert_allclose(transformer.transform(tensors), expected, atol=1e-5)
    stereo = [np.stack([clip, clip]) for clip in clips]
    np.testing.assert_allclose(transformer.transform(stereo), expected, atol=1e-5)


def test_a_table_of_samples(transformer: ByolsTransformer, tiny_model: serab_byols.ByolsModel) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (3, 6000)).astype(np.float32)
    expected = get_scene_embeddings(audio, tiny_model)
    for form in (audio, audio.tolist(), torch.from_numpy(audio), pd.DataFrame(audio)):
        np.testing.assert_allclose(transformer.fit_transform(form), expected, atol=1e-5)
    assert transformer.n_features_in_ == 6000
    assert transformer.transform(audio[:, :4000]).shape == (3, 16)


def test_many_arrays_are_embedded_some_at_a_time(
    transformer: ByolsTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = np.random.default_rng(0).uniform(-1, 1, (7, 2000)).astype(np.float32)
    at_once = transformer.transform(audio)
    monkeypatch.setattr("serab_byols.integrations.sklearn._CLIPS_AT_ONCE", 3)
    np.testing.assert_allclose(transformer.transform(audio), at_once, atol=1e-6)


def test_the_names_of_the_features(transformer: ByolsTransformer, paths: list[str]) -> None:
    assert list(transformer.get_feature_names_out()) == [f"byols_{i}" for i in range(16)]
    frame = transformer.set_output(transform="pandas").fit_transform(paths)
    assert list(frame.columns) == [f"byols_{i}" for i in range(16)]
    table = pd.DataFrame({"path": paths}, index=[f"clip {i}" for i in range(12)])
    assert list(transformer.transform(table).index) == list(table.index)


def test_beside_other_columns(transformer: ByolsTransformer, paths: list[str]) -> None:
    table = pd.DataFrame({"path": paths, "age": np.arange(12.0)})
    columns = ColumnTransformer([("sound", transformer, "path"), ("age", StandardScaler(), ["age"])])
    assert columns.fit_transform(table).shape == (12, 17)
    assert list(columns.get_feature_names_out())[-2:] == ["sound__byols_15", "age__age"]


def test_clones_and_pickles_hold_the_name_alone(
    transformer: ByolsTransformer, paths: list[str], expected: np.ndarray, tiny_checkpoint: Path
) -> None:
    transformer.set_params(normalization=(-6.0, 5.0)).fit(paths)
    pickled = pickle.dumps(transformer)
    assert len(pickled) < 1000 < tiny_checkpoint.stat().st_size
    for other in (pickle.loads(pickled), clone(transformer)):
        assert "_loaded_" not in vars(other)
        assert other.get_params() == transformer.get_params()
        np.testing.assert_array_equal(other.transform(paths), transformer.transform(paths))
    assert np.abs(transformer.transform(paths) - expected).max() > 0.01  # another normalisation


def test_parameters_that_change_are_heeded(
    transformer: ByolsTransformer, paths: list[str], expected: np.ndarray
) -> None:
    """Though ``transform`` needs no ``fit``, a model of earlier parameters is not used."""
    before = transformer.set_params(normalization=(-6, 5)).transform(paths)
    after = transformer.set_params(normalization=None).transform(paths)
    np.testing.assert_array_equal(after, expected)
    assert np.abs(before - after).max() > 0.01


def test_the_caller_s_model_stays_as_it_is(
    tiny_model: serab_byols.ByolsModel, paths: list[str], expected: np.ndarray
) -> None:
    own = serab_byols.ByolsModel(tiny_model.encoder, tiny_model.frontend, normalization=(-6, 5))
    np.testing.assert_array_equal(ByolsTransformer(own, normalization="clip").fit_transform(paths), expected)
    assert own.normalization == (-6, 5)
    assert np.abs(ByolsTransformer(own).fit_transform(paths) - expected).max() > 0.01
    np.testing.assert_array_equal(clone(ByolsTransformer(tiny_model)).fit_transform(paths), expected)


def test_grid_search_over_the_normalisation(transformer: ByolsTransformer, paths: list[str]) -> None:
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression())
    rules = ["clip", (-6.0, 5.0)]
    search = GridSearchCV(pipeline, {"byolstransformer__normalization": rules}, cv=3, error_score="raise")
    search.fit(paths, LABELS)
    for rule, score in zip(rules, search.cv_results_["mean_test_score"]):
        pipeline.set_params(byolstransformer__normalization=rule)
        assert score == cross_val_score(pipeline, paths, LABELS, cv=3).mean()
    assert list(search.predict(paths[:2])) == ["hum", "hiss"]


def test_processes(transformer: ByolsTransformer, paths: list[str]) -> None:
    """Workers are started afresh; forks would hang, since torch has used its threads here."""
    torch.set_num_threads(2)
    transformer.fit_transform(paths)
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression())
    alone = cross_val_score(pipeline, paths, LABELS, cv=2)
    np.testing.assert_array_equal(cross_val_score(pipeline, paths, LABELS, cv=2, n_jobs=2), alone)
    get_reusable_executor().shutdown(wait=True)
    torch.set_num_threads(1)


def test_a_pipeline_s_memory_embeds_once(
    transformer: ByolsTransformer, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make_pipeline(transformer, LogisticRegression(), memory=str(tmp_path / "cache"))
    pipeline.fit(paths, LABELS)
    monkeypatch.setattr(
        "serab_byols.integrations.sklearn.embed_files", lambda *_: pytest.fail("embedded again")
    )
    coefficients = pipeline[-1].coef_
    pipeline.set_params(logisticregression__C=0.1).fit(paths, LABELS)
    assert (pipeline[-1].coef_ != coefficients).any()  # fitted anew, to the same embeddings


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("clip.wav", r"for one clip pass \['clip.wav'\]"),
        ([], "2D array"),
        (np.zeros(16000), "2D array"),
        (np.zeros((2, 3, 4)), "dim 3"),
        ([np.zeros(100, int)], "floating point, .* divide 16-bit integers"),
        ([np.zeros(100), "clip.wav"], "samples must have shape"),
        ([np.zeros(0)], "not be empty"),
        ([np.full(100, np.nan)], "finite"),
        (np.full((2, 100), np.nan), "NaN"),
    ],
)
def test_what_is_no_list_of_clips(transformer: ByolsTransformer, X, message: str) -> None:  # noqa: N803
    with pytest.raises(ValueError, match=message):
        transformer.fit_transform(X)


def test_a_recording_that_looks_like_many_is_warned_of(transformer: ByolsTransformer) -> None:
    with pytest.warns(UserWarning, match=r"\(40, 2\) is 40 clips of 2 samples.*pass \[X\]"):
        transformer.transform(np.zeros((40, 2)) + 0.1)
    assert transformer.transform([np.zeros((4000, 2))]).shape == (1, 16)


def test_errors_of_ours(transformer: ByolsTransformer, paths: list[str]) -> None:
    with pytest.raises(AudioFileError, match=r"none\.wav"):
        transformer.fit_transform([*paths, "none.wav"])
    for rule in ("batch", "hear2021"):
        with pytest.raises(InvalidInputError, match="shares statistics"):
            clone(transformer).set_params(normalization=rule).fit(paths)
    with pytest.raises(InvalidInputError, match="unknown normalization 'clips'"):
        clone(transformer).set_params(normalization="clips").fit(paths)
    with pytest.raises(FileNotFoundError, match="no-such"):
        ByolsTransformer("no-such").fit(paths)
    with pytest.raises(InvalidInputError, match="sample rate"):
        transformer.set_params(sample_rate=0).transform(np.zeros((1, 1000)))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "serab_byols.integrations.sklearn")
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[sklearn\]'"):
        import serab_byols.integrations.sklearn  # noqa: F401

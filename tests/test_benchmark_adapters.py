"""Our embeddings in other benchmarks, and others' features in ours."""

import json

import numpy as np
import pytest
import torch
from sounds import tone, voice, write

import serab_byols
from serab_byols import cli
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.hear_benchmark.validation import validate
from serab_byols.integrations.as_hear_module import as_hear_module
from serab_byols.integrations.mteb import MtebEncoder
from serab_byols.integrations.xares import XaresEncoder

pytestmark = pytest.mark.usefixtures("one_thread")


def audio(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [0.1 * rng.standard_normal(n).astype(np.float32) for n in lengths]


# mteb


def batches(clips, rate=16000, size=2):
    items = [{"array": clip, "sampling_rate": rate} for clip in clips]
    return [{"audio": items[i : i + size]} for i in range(0, len(items), size)]


def test_mteb_gets_the_embeddings_that_we_give(tiny_model):
    clips = audio(16000, 8000, 20000, 12000, 4000)
    encoder = MtebEncoder(tiny_model)
    embeddings = encoder.encode(
        batches(clips), task_metadata=None, hf_split="test", hf_subset="x", batch_size=2
    )
    assert (embeddings.dtype, embeddings.shape) == (np.float32, (5, 16))
    expected = serab_byols.get_scene_embeddings(clips, tiny_model).numpy()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert encoder.encode([]).shape == (0, 16)


def test_mteb_clips_of_other_rates_and_channels(tiny_model):
    stereo = np.stack(audio(44100, 44100))
    expected = serab_byols.embed_audio(stereo, 44100, tiny_model).numpy()
    of_array, of_list = (
        MtebEncoder(tiny_model).encode(batches([clip], 44100))[0]
        for clip in (stereo.astype(np.float64), stereo.tolist())
    )
    np.testing.assert_allclose(of_array, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(of_array, of_list)


def test_mteb_similarities(tiny_model):
    one, other = np.eye(3)[:2] * 5, torch.tensor([[1.0, 1, 0], [0, 0, 2]])
    encoder = MtebEncoder(tiny_model)
    root = 2**-0.5
    torch.testing.assert_close(encoder.similarity(one, other), torch.tensor([[root, 0], [root, 0]]))
    torch.testing.assert_close(encoder.similarity_pairwise(one, other), torch.tensor([root, 0]))


def test_what_mteb_cannot_have(tiny_model, monkeypatch):
    with pytest.raises(InvalidInputError, match="takes audio, got batches of text"):
        MtebEncoder(tiny_model).encode([{"text": ["a"]}])
    with pytest.raises(InvalidInputError, match="shares statistics"):
        MtebEncoder(serab_byols.create_model(d=8, normalization="batch"))
    monkeypatch.setitem(__import__("sys").modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'serab-byols\[mteb\]'"):
        MtebEncoder(tiny_model).mteb_model_meta  # noqa: B018


@pytest.fixture
def mteb_task():
    """A task of mteb with synthetic clips: tones of three pitches in noise."""
    mteb = pytest.importorskip("mteb", reason="mteb is not installed (the extra mteb)")
    datasets = pytest.importorskip("datasets")
    from mteb.abstasks import AbsTaskClassification

    class Tones(AbsTaskClassification):
        metadata = mteb.TaskMetadata(
            name="Tones",
            description="Tones of three pitches in noise",
            reference=None,
            dataset={"path": "none/none", "revision": "1"},
            type="AudioClassification",
            category="a2c",
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            modalities=["audio"],
        )
        input_column_name = "audio"

    rng = np.random.default_rng(0)

    def part(n_clips):
        labels = rng.integers(0, 3, n_clips).tolist()
        clips = [
            tone(300 + 60 * label, 0.3, 16000) * 0.1 + 0.1 * rng.standard_normal(4800) for label in labels
        ]
        items = [{"array": clip.astype(np.float32), "sampling_rate": 16000} for clip in clips]
        return datasets.Dataset.from_dict({"audio": items, "label": labels}), labels, clips

    train, test = part(60), part(30)
    task = Tones()
    task.dataset = datasets.DatasetDict({"train": train[0], "test": test[0]})
    task.data_loaded = True
    return task, train, test


@pytest.mark.filterwarnings("default")
def test_mteb_itself_gets_our_few_shot_scores(mteb_task, tiny_model, tmp_path):
    """The same clips, drawn with mteb's seed, give the same accuracies, draw by draw."""
    import mteb

    from serab_byols.probe import probe

    task, train, test = mteb_task
    encoder = MtebEncoder(tiny_model)
    assert isinstance(encoder, mteb.EncoderProtocol)
    result = mteb.evaluate(encoder, [task], cache=None, co2_tracker=False)
    assert result.model_name == "serab-byols/random-weights"
    (scores,) = result.task_results[0].scores["test"]
    lines = ["path,label,split"]
    for split, (_, labels, clips) in (("train", train), ("test", test)):
        for i, (label, clip) in enumerate(zip(labels, clips)):
            write(tmp_path / f"{split}{i}.wav", clip.astype(np.float32), subtype="FLOAT")
            lines.append(f"{split}{i}.wav,{label},{split}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    (ours,) = probe(tmp_path / "clips.csv", [tiny_model], c=1.0, shots=8, n_draws=10, seed=42)
    theirs = [draw["accuracy"] for draw in scores["scores_per_experiment"]]
    assert theirs == pytest.approx(ours.few_shot.accuracies)
    assert scores["main_score"] == pytest.approx(ours.few_shot.accuracy)
    assert 0.4 < ours.few_shot.accuracy < 1


# X-ARES


def check_audio_encoder(encoder):
    """What X-ARES asks of an encoder, restated; the real check runs where the package is installed."""
    assert type(encoder).__name__.endswith("Encoder")
    assert isinstance(encoder, torch.nn.Module)
    embeddings = encoder(torch.randn(2, 50000))
    assert isinstance(embeddings, torch.Tensor)
    assert embeddings.ndim == 3
    assert (embeddings.shape[0], embeddings.shape[2]) == (2, encoder.output_dim)
    assert (encoder.sampling_rate, encoder.hop_size_in_ms) == (16000, 50.0)


@pytest.mark.parametrize("name", ["default", "resnetish34", "clstm", "cvt"])
def test_xares_takes_every_encoder(narrow, name):
    check_audio_encoder(XaresEncoder(narrow(name)))


def test_the_check_of_xares_itself(tiny_model):
    checker = pytest.importorskip("xares.audio_encoder_checker", reason="xares is not installed")
    assert checker.check_audio_encoder(XaresEncoder(tiny_model))
    assert not checker.check_audio_encoder(tiny_model)


def test_xares_frames_are_timestamp_embeddings(tiny_model):
    waveforms = torch.from_numpy(np.stack(audio(16000, 16000)))
    encoder = XaresEncoder(tiny_model, frame_duration=500, hop_size=100)
    expected, _ = serab_byols.get_timestamp_embeddings(waveforms, tiny_model, 500, 100)
    torch.testing.assert_close(encoder(waveforms), expected[:, :10])
    torch.testing.assert_close(encoder(waveforms[0]), expected[:1, :10])
    assert encoder(waveforms[:, :15000]).shape == (2, 10, 16)
    assert dict(encoder.named_parameters()).keys() == {
        f"model.{name}" for name, _ in tiny_model.named_parameters()
    }
    with pytest.raises(InvalidInputError, match="shares statistics"):
        XaresEncoder(serab_byols.create_model(d=8, normalization="batch"))


# The other way round


def loudness(samples):
    return np.stack([np.log(np.square(samples).mean(axis=1) + 1e-9), np.abs(samples).max(axis=1)], axis=1)


class Loudness:
    def transform(self, samples):
        return loudness(samples)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["path,label,fold"]
    for i in range(16):
        write(
            folder / f"{i}.wav", (0.9 if i % 2 else 0.1) * (tone(400, 0.2, 16000) if i % 3 else voice(i, 0.2))
        )
        lines.append(f"{i}.wav,{'loud' if i % 2 else 'soft'},{i // 8}")
    (folder / "clips.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "clips.csv"


@pytest.mark.parametrize(
    "features", [loudness, Loudness(), lambda samples: torch.from_numpy(loudness(samples))]
)
def test_features_are_scored_by_the_probe(features, corpus, tiny_model):
    from serab_byols.probe import as_json, probe

    module = as_hear_module(features, 16000)
    ours, theirs = probe(corpus, [tiny_model], hear_modules={"loudness": module}, c=1.0, shots=2, n_draws=2)
    assert (ours.features, theirs.features) == ("random weights", "loudness")
    assert theirs.accuracy == 1
    assert theirs.few_shot.accuracy > 0.9
    assert theirs.description == {
        "kind": "HEAR module",
        "module": "loudness",
        "embedding_size": 2,
        "sample_rate": 16000,
    }
    json.dumps(as_json([ours, theirs]))
    (alone,) = probe(corpus, [], hear_modules={"loudness": module}, c=1.0)
    np.testing.assert_array_equal(alone.confusion, theirs.confusion)


def test_a_scikit_learn_pipeline_is_scored(corpus):
    pytest.importorskip("sklearn")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, Normalizer

    from serab_byols.probe import probe

    pipeline = make_pipeline(FunctionTransformer(loudness), Normalizer())
    (result,) = probe(corpus, [], hear_modules={"pipeline": as_hear_module(pipeline, 8000)}, c=1.0)
    assert result.description["sample_rate"] == 8000
    assert result.accuracy > 0.9


def test_timestamps_of_features():
    module = as_hear_module(loudness, 16000, frame_duration=100, hop_size=25)
    model = module.load_model()
    clips = torch.zeros(2, 16000)
    clips[1, 8000:8010] = 0.5
    embeddings, timestamps = module.get_timestamp_embeddings(clips, model)
    assert embeddings.shape == (2, 41, 2)
    assert timestamps[0].tolist() == [25.0 * i for i in range(41)]
    heard = timestamps[1][embeddings[1, :, 1] == 0.5]
    assert heard.tolist() == [475, 500, 525, 550]
    assert embeddings[0, :, 1].max() == 0


def test_long_clips_are_cut_into_frames_some_at_a_time(monkeypatch):
    from serab_byols.integrations import as_hear_module as code

    module = as_hear_module(loudness, 16000, frame_duration=100, hop_size=50)
    clips = torch.from_numpy(np.stack(audio(30000, 30000)))
    whole = module.get_timestamp_embeddings(clips, module.load_model())[0]
    monkeypatch.setattr(code, "_BATCH_S", 1.0)
    n_at_once = []
    counting = as_hear_module(lambda x: (n_at_once.append(len(x)), loudness(x))[1], 16000, frame_duration=100)
    torch.testing.assert_close(counting.get_timestamp_embeddings(clips, counting.load_model())[0], whole)
    assert max(n_at_once) == 10


MODULE = """
import numpy as np
from serab_byols.integrations.as_hear_module import as_hear_module

def loudness(samples):
    return np.stack([np.log(np.square(samples).mean(axis=1) + 1e-9), np.abs(samples).max(axis=1)], axis=1)

load_model, get_scene_embeddings, get_timestamp_embeddings = as_hear_module(loudness, 16000, hop_size=25)
"""


def test_a_module_of_features_keeps_every_rule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_loudness.py").write_text(MODULE)
    verdicts = list(validate("my_loudness"))
    assert [v for v in verdicts if v.outcome == "failed"] == []
    assert {v.rule: v.outcome for v in verdicts}["drift"] == "passed"


def test_the_probe_takes_hear_modules_by_name(corpus, tmp_path, monkeypatch, capfd, tiny_checkpoint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named_loudness.py").write_text(MODULE)
    options = ["probe", str(corpus), "--model", str(tiny_checkpoint), "--c", "1"]
    out = tmp_path / "out.json"
    modules = ["--hear-module", "named_loudness", "--hear-module", f"serab_byols={tiny_checkpoint}"]
    assert cli.main([*options, *modules, "--json", str(out)]) == 0
    ours, loud, again = json.loads(out.read_text())["results"]
    assert (loud["features"], loud["accuracy"]) == ("named_loudness", 1)
    assert again["features"] == f"serab_byols={tiny_checkpoint}"
    assert again["confusion"] == ours["confusion"]
    capfd.readouterr()
    for module, says in [
        ("no_such_module", "'no_such_module' cannot be imported"),
        ("named_loudness=a.pt", "no weights to load, got 'a.pt'"),
        ("json", "the module json has no model: AttributeError"),
    ]:
        assert cli.main([*options, "--hear-module", module]) == 2
        assert says in capfd.readouterr().err


def test_a_module_that_fails_on_a_clip_leaves_it_out(corpus):
    from serab_byols.probe import probe

    n_calls = []

    def failing(samples):
        n_calls.append(1)
        if len(n_calls) == 4:
            raise RuntimeError("too quiet")
        return loudness(samples) * (np.nan if len(n_calls) == 6 else 1)

    errors = []
    (result,) = probe(
        corpus,
        [],
        hear_modules={"failing": as_hear_module(failing, 16000)},
        c=1.0,
        on_error=lambda segment, error: errors.append((segment.file, str(error))),
    )
    assert result.n_clips == 14
    assert [file for file, _ in errors] == ["2.wav", "4.wav"]
    assert "2.wav: failing: RuntimeError: too quiet" in errors[0][1]
    assert "the embedding is not finite" in errors[1][1]


@pytest.mark.parametrize("wrong", [3, "name", Loudness])
def test_what_has_no_features(wrong):
    with pytest.raises(InvalidInputError, match="a function or an object with the method 'transform'"):
        as_hear_module(wrong, 16000)


def test_features_of_another_shape_or_with_weights():
    with pytest.raises(InvalidInputError, match=r"must have the shape \(1, D\), got \(1,\)"):
        as_hear_module(lambda samples: samples.mean(axis=1), 16000).load_model()
    with pytest.raises(InvalidInputError, match="no weights to load"):
        as_hear_module(loudness, 16000).load_model("weights.pt")

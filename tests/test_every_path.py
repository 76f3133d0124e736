"""Every path from audio to an embedding gives the same numbers, whatever else is in the batch."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from parity_data import ROOT, assert_close_to_peak
from sounds import voice, write

import serab_byols
from serab_byols import cli, get_scene_embeddings, load_model
from serab_byols.corpus import BatchEmbedder, decode_ahead
from serab_byols.corpus.segments import Segment
from serab_byols.integrations.model_export import export_model, export_program, torch_can_export
from serab_byols.normalization import Statistics
from serab_byols.probe.features import model_features

pytestmark = pytest.mark.usefixtures("one_thread")

SECONDS = (0.3, 0.3, 1.7, 0.05, 0.9)
"""Of the clips. Two are of one length; one is shorter than the encoder's shortest input."""


class Clips(NamedTuple):
    """The same clips as files and in memory, the model and its file."""

    files: list[Path]
    samples: list[np.ndarray]
    checkpoint: Path
    folder: Path

    def some(self, indices: Sequence[int]) -> Clips:
        """Some of them, in this order."""
        return self._replace(
            files=[self.files[i] for i in indices], samples=[self.samples[i] for i in indices]
        )


Embed = Callable[[Clips], Any]


@pytest.fixture(scope="module")
def clips(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    # Statistics in the file: half precision and exports are then normalised as everything else.
    statistics = Statistics(-7.0, 4.0)
    model = serab_byols.ByolsModel(tiny_model.encoder, tiny_model.frontend, statistics=statistics)
    checkpoint = serab_byols.save_checkpoint(model, folder / "tiny.safetensors")
    files = [
        write(folder / f"{i}.wav", voice(i, seconds) * 0.3**i, subtype="FLOAT")
        for i, seconds in enumerate(SECONDS)
    ]
    samples = [soundfile.read(file, dtype="float32")[0] for file in files]
    return Clips(files, samples, checkpoint, folder)


@pytest.fixture(scope="module")
def expected(clips):
    """Each clip in a batch of its own, (n_clips, D)."""
    model = load_model(clips.checkpoint)
    return torch.cat([get_scene_embeddings(torch.from_numpy(clip)[None], model) for clip in clips.samples])


def by_length(clips: Clips, embed: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """For what takes batches of clips of one length."""
    rows: dict[int, torch.Tensor] = {}
    for length in {len(clip) for clip in clips.samples}:
        numbers = [i for i, clip in enumerate(clips.samples) if len(clip) == length]
        batch = torch.from_numpy(np.stack([clips.samples[i] for i in numbers]))
        rows.update(zip(numbers, embed(batch)))
    return torch.stack([rows[i] for i in range(len(rows))])


def scenes(clips: Clips) -> Any:
    model = load_model(clips.checkpoint)
    return by_length(clips, lambda batch: get_scene_embeddings(batch, model))


def the_module_itself(clips: Clips) -> Any:
    model = load_model(clips.checkpoint).eval()
    with torch.no_grad():
        return by_length(clips, model)


def bfloat16(clips: Clips) -> Any:
    model = load_model(clips.checkpoint).to(torch.bfloat16)
    return by_length(clips, lambda batch: get_scene_embeddings(batch, model)).float()


def autocast(clips: Clips) -> Any:
    model = load_model(clips.checkpoint)
    with torch.autocast("cpu", torch.bfloat16):
        return by_length(clips, lambda batch: get_scene_embeddings(batch, model)).float()


def compiled(clips: Clips) -> Any:
    model = torch.compile(load_model(clips.checkpoint).eval(), backend="eager", dynamic=True)
    with torch.no_grad():
        return by_length(clips, model)


def arrays(clips: Clips) -> Any:
    model = load_model(clips.checkpoint)
    return [serab_byols.embed_audio(clip, 16000, model).numpy() for clip in clips.samples]


def one_file_at_a_time(clips: Clips) -> Any:
    model = load_model(clips.checkpoint)
    return [serab_byols.embed_file(file, model).embedding for file in clips.files]


def files(clips: Clips) -> Any:
    return [record.embedding for record in serab_byols.embed_files(clips.files, load_model(clips.checkpoint))]


def streamed_files(clips: Clips) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_ahead, "STREAM_S", 0.2)  # all but the shortest
        decoded = list(decode_ahead.decode_ahead(clips.files, 16000))
        assert [item.samples is None for item in decoded] == [len(clip) > 3200 for clip in clips.samples]
        return files(clips)


def in_order(table: Any, clips: Clips) -> Any:
    rows = dict(zip(table["file"], table["embedding"]))
    return [rows[str(file)] for file in clips.files]


def dataset(clips: Clips) -> Any:
    import pandas

    out = clips.folder / f"dataset-{len(clips.files)}-{clips.files[0].stem}"
    serab_byols.embed_dataset(clips.files, out, clips.checkpoint, part_size=2)
    return in_order(pandas.read_parquet(out), clips)


def command(clips: Clips) -> Any:
    import pandas

    out = clips.folder / f"command-{len(clips.files)}-{clips.files[0].stem}.parquet"
    arguments = ["embed", *map(str, clips.files), "-o", str(out), "--model", str(clips.checkpoint), "--quiet"]
    assert cli.main(arguments) == 0
    return in_order(pandas.read_parquet(out), clips)


def command_in_a_process(clips: Clips) -> Any:
    out = clips.folder / f"command-{len(clips.files)}-{clips.files[0].stem}.npz"
    arguments = ["embed", *map(str, clips.files), "-o", str(out), "--model", str(clips.checkpoint), "--quiet"]
    done = subprocess.run([sys.executable, "-m", "serab_byols", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return in_order(np.load(out), clips)


def batches_of_paths(clips: Clips) -> Any:
    embed = BatchEmbedder(clips.checkpoint)
    return embed({"path": np.array([str(file) for file in clips.files])})["embedding"]


def batches_of_samples(clips: Clips) -> Any:
    samples = np.empty(len(clips.samples), object)
    samples[:] = clips.samples
    embed = BatchEmbedder(clips.checkpoint, samples="samples", sample_rate=16000)
    return embed({"samples": samples})["embedding"]


def probe(clips: Clips) -> Any:
    def refuse(_: object, error: Exception) -> None:
        raise error

    features = model_features(load_model(clips.checkpoint), "tiny")
    segments = [Segment(str(file), str(file)) for file in clips.files]
    return [vector for _, vector in sorted(features.extract(segments, refuse), key=lambda item: item[0])]


def torch_hub(clips: Clips) -> Any:
    model = torch.hub.load(str(ROOT), "byols", str(clips.checkpoint), source="local")
    return by_length(clips, lambda batch: get_scene_embeddings(batch, model))


def hugging_face_hub(clips: Clips) -> Any:
    from serab_byols.integrations.hub import ByolsHubModel

    ByolsHubModel(load_model(clips.checkpoint)).save_pretrained(clips.folder / "hub")
    model = ByolsHubModel.from_pretrained(clips.folder / "hub")
    return by_length(clips, lambda batch: get_scene_embeddings(batch, model))


def sklearn_of_paths(clips: Clips) -> Any:
    from serab_byols.integrations.sklearn import ByolsTransformer

    return ByolsTransformer(clips.checkpoint).fit_transform([str(file) for file in clips.files])


def sklearn_of_arrays(clips: Clips) -> Any:
    from serab_byols.integrations.sklearn import ByolsTransformer

    return ByolsTransformer(clips.checkpoint).fit_transform(clips.samples)


@functools.cache
def exported_program(checkpoint: Path) -> torch.nn.Module:
    return export_program(load_model(checkpoint)).module()


@functools.cache
def exported_model(checkpoint: Path) -> Path:
    return export_model(load_model(checkpoint), checkpoint.with_suffix(".onnx"))


def program(clips: Clips) -> Any:
    exported = exported_program(clips.checkpoint)
    with torch.no_grad():
        return by_length(clips, exported)


def onnx(clips: Clips) -> Any:
    import onnxruntime

    path = str(exported_model(clips.checkpoint))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return by_length(
        clips, lambda batch: torch.from_numpy(session.run(["embedding"], {"waveform": batch.numpy()})[0])
    )


def onnx_of_files(clips: Clips) -> Any:
    script = runpy.run_path(str(ROOT / "examples" / "serab_byols_onnx.py"))
    model = script["load_model"](str(exported_model(clips.checkpoint)))
    return [script["embed_file"](str(file), model) for file in clips.files]


EXACT, EXPORTED, HALF = 1e-5, 5e-5, 0.02
"""Of the largest value; as docs/inference.md, docs/export.md and docs/benchmarks.md promise."""

PATHS: dict[Embed, tuple[float, tuple[str, ...]]] = {
    scenes: (EXACT, ()),
    the_module_itself: (EXACT, ()),
    bfloat16: (HALF, ()),
    autocast: (HALF, ()),
    compiled: (EXACT, ()),
    arrays: (EXACT, ()),
    one_file_at_a_time: (EXACT, ()),
    files: (EXACT, ()),
    streamed_files: (EXACT, ()),
    dataset: (EXACT, ("pandas", "pyarrow")),
    command: (EXACT, ("pandas", "pyarrow")),
    command_in_a_process: (EXACT, ()),
    batches_of_paths: (EXACT, ()),
    batches_of_samples: (EXACT, ()),
    probe: (EXACT, ()),
    torch_hub: (EXACT, ()),
    hugging_face_hub: (EXACT, ("huggingface_hub",)),
    sklearn_of_paths: (EXACT, ("sklearn",)),
    sklearn_of_arrays: (EXACT, ("sklearn",)),
    program: (EXPORTED, ("torch.export",)),
    onnx: (EXPORTED, ("torch.export", "onnxscript", "onnxruntime")),
    onnx_of_files: (EXPORTED, ("torch.export", "onnxscript", "onnxruntime")),
}


@pytest.mark.parametrize("embed", PATHS, ids=lambda embed: embed.__name__)
def test_the_same_numbers_in_any_batch(clips, expected, embed):
    tolerance, packages = PATHS[embed]
    for package in packages:
        if not (torch_can_export() if package == "torch.export" else find_spec(package)):
            pytest.skip(f"needs {package}")
    for indices in ([0, 1, 2, 3, 4], [4, 2, 1], [3]):
        embeddings = torch.as_tensor(np.stack([np.asarray(row) for row in embed(clips.some(indices))]))
        assert_close_to_peak(embeddings, expected[indices], tolerance)
    # Clips differ by far more than what is tolerated.
    distances = torch.cdist(expected, expected, p=torch.inf) + torch.eye(len(expected))
    assert distances.min() > 2 * tolerance * expected.abs().max()

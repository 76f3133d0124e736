"""Exported models: ONNX Runtime and torch.export beside the model itself, at sizes that were not exported."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_data import ROOT
from sounds import tone, voice, write

import serab_byols
from serab_byols import embed_file, get_scene_embeddings, load_model
from serab_byols.checkpoint import weights_sha256
from serab_byols.cli import main
from serab_byols.cli.options import EXIT_BAD_FILES, EXIT_OK, EXIT_USAGE
from serab_byols.encoders import ENCODERS, CvT
from serab_byols.errors import InvalidInputError, MissingExtraError
from serab_byols.frontend import LogMelFrontend, create_frontend
from serab_byols.integrations import model_export
from serab_byols.integrations.export_graph import ConvolutionFrontend, ExportGraph
from serab_byols.integrations.model_export import (
    METADATA_FILE,
    export_model,
    export_program,
    metadata,
    torch_can_export,
)
from serab_byols.normalization import Statistics

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

if not torch_can_export():
    pytest.skip("exporting needs torch 2.13 or newer", allow_module_level=True)

TOLERANCE = 5e-5
"""Of the largest value, the tolerance that is promised."""


def onnx_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_embeddings(path):
    session = onnx_session(path)
    return lambda clips: torch.from_numpy(session.run(["embedding"], {"waveform": clips.numpy()})[0])


def program_embeddings(path):
    return torch.export.load(path).module()


RUNTIMES = {".onnx": onnx_embeddings, ".pt2": program_embeddings}


def clips_to_try(model):
    """Batches (B, n) at and around the sizes where anything is rounded, padded or reflected."""
    shortest = model.min_samples
    for n_samples in (1, 300, 512, 513, shortest - 1, shortest, shortest + 1, 2559, 2560, 2561, 5119, 5120):
        yield torch.from_numpy(voice(n_samples, 0.5)[-n_samples:])[None]
    for n_clips, n_samples in ((3, 16161), (17, 4000), (1, 64001), (2, 130_000)):
        yield torch.from_numpy(np.stack([voice(seed, n_samples / 16000) for seed in range(n_clips)]))
    yield torch.zeros(2, 9000)  # silence
    half_silent = torch.zeros(1, 20_000)
    half_silent[:, 7000:] = torch.from_numpy(voice(1, 13_000 / 16000))
    yield half_silent
    yield 1e-4 * torch.from_numpy(voice(3, 0.6))[None]


def largest_difference(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ENCODERS)
def test_any_batch_and_length_equal_the_model(narrow, monkeypatch, tmp_path, name):
    model = narrow(name, normalization="clip").train()
    before = [(name, type(module), module.training) for name, module in model.named_modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    program = export_program(model)
    monkeypatch.setattr(model_export, "export_program", lambda model: program)  # once for both files
    for suffix, load in RUNTIMES.items():
        embed = load(export_model(model, tmp_path / f"model{suffix}"))
        for clips in clips_to_try(model):
            expected = get_scene_embeddings(list(clips), model)
            actual = embed(clips)
            assert actual.dtype == torch.float32
            assert actual.shape == (len(clips), model.embedding_size)
            assert largest_difference(actual, expected) < TOLERANCE, (suffix, clips.shape)
            # Each row is that of the clip alone.
            assert largest_difference(embed(clips[-1:]), actual[-1:]) < TOLERANCE

    # The model stays as it was.
    assert [(name, type(module), module.training) for name, module in model.named_modules()] == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    "samples",
    [voice(1, 1.0), 30 * voice(2, 0.6), tone(1000, 0.7, 16000), tone(440, 1.0, 16000)],
    ids=["voice", "loud", "1000 Hz", "440 Hz"],
)
def test_the_front_end_is_no_less_exact_than_the_default_one(samples):
    """Of sounds without noise, most mels are leakage, of which float32 rounds the last digits differently."""
    samples = torch.from_numpy(samples)[None]
    exact = create_frontend("torch").double()(samples.double())
    error, allowed = (
        float((log_mel - exact).square().mean().sqrt())
        for log_mel in (ConvolutionFrontend()(samples), create_frontend("torch")(samples))
    )
    assert error <= allowed < 1e-2


def test_the_front_end_equals_the_default_one():
    noise = torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.testing.assert_close(
        ConvolutionFrontend()(noise), create_frontend("torch")(noise), atol=2e-5, rtol=1e-5
    )


def test_silence_is_normalised_to_zero(narrow):
    graph = ExportGraph(narrow(normalization="clip"))
    assert graph._normalized(torch.full((2, 64, 1001), -15.942385)).eq(0).all()


def test_a_modified_encoder_is_exported_with_what_it_does(narrow, tmp_path):
    model = narrow(normalization="clip")
    model.encoder.fc[3].register_forward_hook(lambda module, inputs, output: 2 * output)
    embed = program_embeddings(export_model(model, tmp_path / "model.pt2"))
    clips = torch.from_numpy(voice(5, 0.5))[None]
    assert largest_difference(embed(clips), get_scene_embeddings(clips, model)) < TOLERANCE


def test_a_graph_knows_no_windows_and_says_up_to_where_none_are_needed(narrow, monkeypatch):
    model = narrow("cvt", normalization="clip")
    assert metadata(model)["max_samples"] == "9600159"  # ten minutes and what the next column lacks
    assert metadata(narrow())["max_samples"] == "null"
    monkeypatch.setattr(CvT, "window_columns", 48)
    n_samples = int(metadata(model)["max_samples"])
    graph, clips = ExportGraph(model), torch.from_numpy(voice(0, 2.0))[None, : n_samples + 1]
    for clip, is_same in ((clips[:, :n_samples], True), (clips, False)):
        embedding = get_scene_embeddings(clip, model)
        assert (largest_difference(graph(clip), embedding) < TOLERANCE) is is_same
    monkeypatch.setattr(CvT, "window_columns", None)
    assert largest_difference(graph(clips), get_scene_embeddings(clips, model)) < TOLERANCE
    assert model.encoder.window_columns is None  # that of the class: the model itself was not changed
    assert "window_columns" not in vars(model.encoder)


def test_half_precision_is_exported_as_float32(narrow, tmp_path):
    model = narrow(normalization="clip").to(torch.bfloat16)
    embed = program_embeddings(export_model(model, tmp_path / "model.pt2"))
    clips = torch.from_numpy(voice(6, 0.5))[None]
    assert largest_difference(embed(clips), get_scene_embeddings(clips, model.float())) < TOLERANCE


def test_what_cannot_be_exported_is_refused(narrow, tmp_path):
    with pytest.raises(InvalidInputError, match="shares statistics"):
        export_model(narrow(normalization="batch"), tmp_path / "model.onnx")
    with pytest.raises(InvalidInputError, match=r"\.onnx or \.pt2, got 'model\.tflite'"):
        export_model(narrow(), tmp_path / "model.tflite")
    own = narrow()
    own.frontend = type("Own", (LogMelFrontend,), {})()
    with pytest.raises(InvalidInputError, match="Own"):
        export_model(own, tmp_path / "model.onnx")
    branching = narrow()
    branching.encoder.fc[0].register_forward_hook(lambda module, inputs, output: output * float(output.sum()))
    with pytest.raises(InvalidInputError, match="torch cannot export"):
        export_model(branching, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(narrow, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"serab-byols\[onnx\]"):
        export_model(narrow(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_older_torch_is_named(narrow, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.4.1+cpu")
    with pytest.raises(MissingExtraError, match=r"needs torch 2\.13 or newer, this is 2\.4\.1\+cpu"):
        export_program(narrow())


# ---- The command, and what its files say of themselves ---------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The default weights, exported by the command without naming them."""
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    assert main(["export", "-o", str(path)]) == EXIT_OK
    return path


def test_fixed_statistics_and_published_widths(exported):
    model, embed = load_model(), onnx_embeddings(exported)
    assert isinstance(model.resolved_normalization, Statistics)
    for clips in clips_to_try(model):
        assert largest_difference(embed(clips), get_scene_embeddings(list(clips), model)) < TOLERANCE


def test_a_difference_would_be_seen(exported):
    clips = torch.from_numpy(voice(0, 0.5))[None]
    other = get_scene_embeddings(clips, load_model(normalization="clip"))
    assert largest_difference(onnx_embeddings(exported)(clips), other) > 100 * TOLERANCE


def test_the_file_describes_itself(exported):
    model = load_model()
    session = onnx_session(exported)
    facts = session.get_modelmeta().custom_metadata_map
    assert int(facts["sample_rate_hz"]) == 16000
    assert int(facts["embedding_size"]) == 512
    assert int(facts["min_samples"]) == model.min_samples
    assert facts["encoder"] == "default"
    assert json.loads(facts["encoder_config"]) == {"d": 512}
    assert json.loads(facts["normalization"]) == model.statistics._asdict()
    assert json.loads(facts["statistics"]) == model.statistics._asdict()
    assert facts["weights"] == model.source
    assert facts["weights_sha256"] == weights_sha256(model.encoder)
    assert facts["written_by"] == f"serab_byols {serab_byols.__version__}"
    (waveform,), (embedding,) = session.get_inputs(), session.get_outputs()
    assert (waveform.name, waveform.shape) == ("waveform", ["batch", "samples"])
    assert (embedding.name, embedding.shape) == ("embedding", ["batch", 512])


def test_the_file_is_valid_and_holds_no_paths_of_the_machine(exported):
    onnx.checker.check_model(str(exported), full_check=True)
    content = exported.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content


def test_a_program_describes_itself(tiny_checkpoint, tmp_path, capsys):
    assert main(["export", str(tiny_checkpoint), "-o", str(tmp_path / "m.pt2")]) == EXIT_OK
    assert "default, waveform at 16000 Hz to 16 numbers" in capsys.readouterr().out
    files = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=files)
    assert json.loads(files[METADATA_FILE])["normalization"] == "clip"
    with zipfile.ZipFile(tmp_path / "m.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(ROOT).encode() not in content
    assert b"site-packages" not in content
    # The program needs no module of this package.
    code = (
        "import sys; sys.modules['serab_byols'] = None; import torch; "
        f"print(torch.export.load({str(tmp_path / 'm.pt2')!r}).module()(torch.zeros(3, 999)).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "torch.Size([3, 16])"


def test_the_command_refuses(tiny_checkpoint, tmp_path, capsys):
    def refusal(*arguments):
        assert main(["export", *map(str, arguments)]) == EXIT_BAD_FILES
        return capsys.readouterr().err

    assert "does not exist" in refusal("no-such-weights", "-o", tmp_path / "m.onnx")
    assert ".onnx or .pt2" in refusal(tiny_checkpoint, "-o", tmp_path / "m.bin")
    assert "No such file" in refusal(tiny_checkpoint, "-o", tmp_path / "nowhere" / "m.pt2")
    link = tmp_path / "m.onnx"
    os.link(tiny_checkpoint, link)
    before = link.read_bytes()
    assert "also an input" in refusal(tiny_checkpoint, "-o", link)
    assert link.read_bytes() == before
    with pytest.raises(SystemExit) as exit_status:
        main(["export", str(tiny_checkpoint), "-o", str(link), "--normalization", "batch"])
    assert exit_status.value.code == EXIT_USAGE


# ---- Without torch ---------------------------------------------------------------------------------

PACKAGES = ("numpy", "soundfile", "soxr", "onnxruntime")
MOST_BYTES = 150e6
SCRIPT = ROOT / "examples" / "serab_byols_onnx.py"


@pytest.fixture(scope="module")
def small_python(tmp_path_factory):
    """The interpreter of an environment with nothing but the four packages and what they need."""
    folder = tmp_path_factory.mktemp("small") / "environment"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = sysconfig.get_path("scripts", "venv", {"base": str(folder)})
    python = Path(scripts) / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-compile", "--quiet"]
    command = [*pip, "--retries", "0", "-c", str(ROOT / "constraints.txt"), *PACKAGES]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip(f"the packages cannot be installed here: {result.stderr.strip().splitlines()[-1]}")
    return folder, python


def embeddings_of_script(python, *arguments):
    command = [str(python), "-B", "-I", str(SCRIPT), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split(",") for line in result.stdout.splitlines()]
    return {Path(name).name: np.array(numbers, np.float32) for name, *numbers in rows}


def test_a_small_environment_without_torch(small_python, exported, tmp_path):
    folder, python = small_python
    paths = [
        write(tmp_path / "a.wav", voice(0, 0.8)),
        write(tmp_path / "b.flac", voice(1, 1.3, 44100), 44100),
        write(tmp_path / "c.mp3", np.stack([voice(2, 0.9, 22050), voice(3, 0.9, 22050)], axis=1), 22050),
        write(tmp_path / "d.wav", voice(4, 0.01, 8000), 8000),
        write(tmp_path / "e.ogg", voice(5, 20.0, 48000), 48000),
    ]
    embeddings = embeddings_of_script(python, exported, *paths)
    model = load_model()
    assert set(embeddings) == {path.name for path in paths}
    for path in paths:
        expected = embed_file(path, model).embedding
        assert np.abs(embeddings[path.name] - expected).max() < TOLERANCE * np.abs(expected).max(), path.name

    names = {path.name for path in folder.rglob("*") if path.is_dir()}
    assert "onnxruntime" in names
    assert not {"torch", "serab_byols", "onnx"} & names
    n_bytes = sum(path.lstat().st_size for path in folder.rglob("*"))
    assert n_bytes < MOST_BYTES


def test_the_script_refuses_what_is_not_audio(exported, tmp_path):
    script = runpy.run_path(str(SCRIPT))
    samples = voice(0, 0.2)
    samples[7] = np.nan
    path = write(tmp_path / "nan.wav", samples, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav holds no samples, or some that are NaN"):
        script["embed_file"](str(path), script["load_model"](str(exported)))

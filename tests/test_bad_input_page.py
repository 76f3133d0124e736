"""docs/bad-input.md and the tests are one thing: a row is run, or names the test that runs it."""

import ast
import re
import warnings

import numpy as np
import pytest
import soundfile
import torch
from parity_data import ROOT
from sounds import voice, write

from serab_byols import (
    create_model,
    embed_audio,
    embed_file,
    embed_files,
    errors,
    get_scene_embeddings,
    get_timestamp_embeddings,
    load_model,
    save_checkpoint,
)
from serab_byols.cli import main

PAGE = (ROOT / "docs" / "bad-input.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([^`]+)` \| (.+?) \| `([^`]+)` \| (.+?) \|$", PAGE, re.MULTILINE)
"""Id, what comes in, the error (or ``exit N``, ``warning``, ``works``), and a piece of its message."""

RUN = [row for row in ROWS if not row[0].startswith("test_")]
ELSEWHERE = [row[0] for row in ROWS if row[0].startswith("test_")]
CASES = {}


def case(name):
    """Registers what a row of the page stands for: a function of a :class:`Bench`."""

    def register(function):
        assert name not in CASES, name
        CASES[name] = function
        return function

    return register


class Bench:
    """A folder with a good clip, a model, its checkpoint, and the command."""

    def __init__(self, folder, model, capsys):
        self.folder, self.model, self._capsys = folder, model, capsys
        self.clip = write(folder / "good.wav", voice())

    @property
    def checkpoint(self):
        path = self.folder / "model.safetensors"
        return save_checkpoint(self.model, path, statistics=(-6.0, 5.0))

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def command(self, *arguments):
        """Exit status, and everything that the command said, its error table included."""
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        tables = [path.read_text() for path in self.folder.glob("*.errors.csv")]
        return status, "\n".join([self._capsys.readouterr().err, *tables])

    def embed(self, *inputs, output="out.npz"):
        return self.command("embed", *inputs, "-o", self.folder / output)

    def embed_list(self, text):
        return self.embed(self.file("list.csv", text))

    def probe(self, manifest, *options):
        return self.command("probe", self.file("clips.csv", manifest), *options)


# --- arrays and tensors --------------------------------------------------------------------------

SCENES = {
    "not-finite": torch.full((1, 16000), float("nan")),
    "infinite": np.full((1, 16000), np.inf),
    "beyond-1e12": torch.full((1, 16000), 1e20),
    "beyond-float32": np.full((1, 16000), 1e300),
    "integers": np.zeros((1, 16000), np.int16),
    "booleans": torch.zeros(1, 16000, dtype=torch.bool),
    "complex": np.zeros((1, 16000), complex),
    "objects": np.full((1, 16000), None),
    "one-axis": torch.zeros(16000),
    "three-axes": torch.zeros(1, 1, 16000),
    "channels-as-clips": torch.zeros(16000, 2),
    "empty-clip": [torch.zeros(0)],
    "python-list": [[0.0] * 16000],
    "text": "clip.wav",
    "none": None,
    "sparse": torch.zeros(1, 16000).to_sparse(),
    "meta": torch.zeros(1, 16000, device="meta"),
    "masked": np.ma.masked_array(np.zeros((1, 16000))),
}
for name, audio in SCENES.items():
    case(name)(lambda bench, audio=audio: get_scene_embeddings(audio, bench.model))

AUDIO = {
    "array-masked": (np.ma.masked_array(np.zeros(16000)), 16000),
    "array-sparse": (torch.zeros(16000).to_sparse(), 16000),
    "array-meta": (torch.zeros(16000, device="meta"), 16000),
    "array-beyond-float32": (np.full(16000, 1e300), 16000),
    "array-empty": (np.zeros(0), 16000),
    "array-of-three-axes": (np.zeros((1, 2, 16000)), 16000),
    "rate-too-low": (np.zeros(16000), 0.001),
    "rate-too-high": (np.zeros(16000), 2**63),
    "rate-as-text": (np.zeros(16000), "16000"),
    "rate-nan": (np.zeros(16000), float("nan")),
}
for name, arguments in AUDIO.items():
    case(name)(lambda bench, arguments=arguments: embed_audio(*arguments, bench.model))


@case("unscaled-integers")
def unscaled_integers(bench):
    get_scene_embeddings(torch.from_numpy(voice() * 32768)[None], bench.model)


@case("model-integers")
def integers_to_the_model(bench):
    bench.model(torch.zeros(1, 16000, dtype=torch.int16))


@case("model-empty")
def an_empty_batch_to_the_model(bench):
    bench.model(torch.zeros(1, 0))


# --- options -------------------------------------------------------------------------------------

FRAMES = {
    "hop-zero": {"hop_size": 0},
    "hop-nan": {"hop_size": float("nan")},
    "hop-below-a-sample": {"hop_size": 0.01},
    "frame-beyond-an-hour": {"frame_duration": 1e8},
    "frame-as-text": {"frame_duration": "50"},
    "frame-too-large-for-a-float": {"frame_duration": 10**400},
}
for name, options in FRAMES.items():
    case(name)(
        lambda bench, options=options: get_timestamp_embeddings(torch.zeros(1, 8000), bench.model, **options)
    )

MODELS = {
    "unknown-encoder": {"encoder": "vggish"},
    "unknown-frontend": {"frontend": "mel"},
    "unknown-normalization": {"normalization": "mean"},
    "normalization-overflow": {"normalization": (1e39, 1)},
    "normalization-std-zero": {"normalization": (0, 0)},
    "size-zero": {"d": 0},
}
for name, options in MODELS.items():
    case(name)(lambda bench, options=options: create_model(**{"encoder": "default", **options}))


@case("dense-cvt")
def dense_frames_of_cvt(bench):
    get_timestamp_embeddings(torch.zeros(1, 8000), create_model("cvt"), dense=True)


@case("dense-scenes")
def dense_scenes(bench):
    embed_file(bench.clip, bench.model, dense=True)


@case("shared-statistics-of-files")
def shared_statistics_of_files(bench):
    embed_file(bench.clip, create_model("default", d=8, normalization="batch"))


@case("one-path-for-many")
def one_path_for_many(bench):
    embed_files(str(bench.clip), bench.model)


@case("option-misspelt")
def a_misspelt_option(bench):
    return bench.command("embed", bench.clip, "-o", bench.folder / "a.npz", "--timestamp-s")


@case("frames-without-timestamps")
def options_of_frames_for_scenes(bench):
    return bench.command("embed", bench.clip, "-o", bench.folder / "a.npz", "--hop-size", "20")


# --- audio files ---------------------------------------------------------------------------------

FILES = {
    "file-empty": b"",
    "file-no-audio": b"This is no audio, but a few words.",
    "file-random-bytes": bytes(range(256)) * 40,
}
for name, content in FILES.items():
    case(name)(lambda bench, content=content: bench.embed(bench.file("bad.wav", content), bench.clip))


@case("file-missing")
def a_missing_file(bench):
    return bench.embed(bench.folder / "missing.wav", bench.clip)


@case("file-folder")
def a_folder_as_a_file(bench):
    (bench.folder / "folder.wav").mkdir()
    embed_file(bench.folder / "folder.wav", bench.model)


@case("folder-without-audio")
def a_folder_without_audio(bench):
    (bench.folder / "empty").mkdir()
    return bench.embed(bench.folder / "empty")


@case("file-without-samples")
def a_file_without_samples(bench):
    embed_file(write(bench.folder / "a.wav", np.zeros(0)), bench.model)


@case("file-of-1-hz")
def a_file_of_one_hertz(bench):
    embed_file(write(bench.folder / "a.wav", voice(), 1), bench.model)


@case("file-with-nan")
def a_file_with_nan(bench):
    embed_file(write(bench.folder / "a.wav", np.full(8000, np.nan), subtype="FLOAT"), bench.model)


@case("file-shorter-than-a-sample")
def a_file_shorter_than_a_sample(bench):
    soundfile.write(bench.folder / "a.wav", np.zeros(1), 96000)
    embed_file(bench.folder / "a.wav", bench.model)


@case("path-with-nul")
def a_path_with_nul(bench):
    embed_file(f"{bench.clip}\0b", bench.model)


@case("segment-outside")
def a_segment_outside_of_the_file(bench):
    embed_file(bench.clip, bench.model, start=100)


@case("segment-backwards")
def a_segment_backwards(bench):
    embed_file(bench.clip, bench.model, start=0.4, end=0.2)


@case("segment-as-text")
def a_segment_as_text(bench):
    embed_file(bench.clip, bench.model, start="0")


# --- lists and manifests -------------------------------------------------------------------------

LISTS = {
    "list-without-path": "name,start\na.wav,0\n",
    "list-near-miss": "path,start_s\ngood.wav,0.1\n",
    "list-repeated-column": "path,start,Start\ngood.wav,0.1,0.2\n",
    "list-empty": "",
    "list-without-rows": "path\n",
    "list-row-without-path": "path,start\ngood.wav,0\n,0\n",
    "list-time-no-number": "path,start\ngood.wav,0\ngood.wav,soon\n",
    "list-time-negative": "path,start\ngood.wav,0\ngood.wav,-1\n",
    "list-not-utf8": "path\ngr\xfcn.wav\n".encode("latin-1"),
}
for name, text in LISTS.items():
    case(name)(lambda bench, text=text: bench.embed_list(text))

MANIFESTS = {
    "manifest-without-label": ("path\ngood.wav\n", ()),
    "manifest-one-label": ("path,label\ngood.wav,a\nother.wav,a\n", ()),
    "manifest-label-empty": ("path,label\ngood.wav,a\nother.wav,\n", ()),
    "manifest-clip-twice": ("path,label\ngood.wav,a\ngood.wav,b\n", ()),
    "manifest-without-rows": ("path,label\n", ()),
    "manifest-unknown-task": ("path,label\ngood.wav,a\nother.wav,b\n", ("--task", "x")),
    "manifest-one-fold": ("path,label\ngood.wav,a\nother.wav,b\n", ("--folds", "1")),
}
for name, (text, options) in MANIFESTS.items():
    case(name)(lambda bench, text=text, options=options: bench.probe(text, *options))

# --- checkpoints ---------------------------------------------------------------------------------

CHECKPOINTS = {
    "checkpoint-empty": b"",
    "checkpoint-other-file": b"no checkpoint at all",
    "checkpoint-old-torch": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
}
for name, content in CHECKPOINTS.items():
    case(name)(lambda bench, content=content: load_model(bench.file("a.pth", content)))


def damaged(bench, old, new):
    content = bench.checkpoint.read_bytes()
    assert old in content
    return load_model(bench.file("a.safetensors", content.replace(old, new, 1)))


DAMAGE = {
    "checkpoint-key-damaged": (b'"serab_byols":', b'"serab_bymls":'),
    "checkpoint-statistics-damaged": (b'\\"mean\\": -6.0', b'\\"mean\\": -4.0'),
    "checkpoint-newer": (b'\\"format_version\\": 1', b'\\"format_version\\": 9'),
}
for name, (old, new) in DAMAGE.items():
    case(name)(lambda bench, old=old, new=new: damaged(bench, old, new))


@case("checkpoint-missing")
def a_missing_checkpoint(bench):
    load_model(bench.folder / "missing.safetensors")


@case("checkpoint-truncated")
def a_truncated_checkpoint(bench):
    load_model(bench.file("a.safetensors", bench.checkpoint.read_bytes()[:-100]))


@case("checkpoint-bit-flipped")
def a_flipped_bit_in_the_weights(bench):
    content = bytearray(bench.checkpoint.read_bytes())
    content[-100] ^= 1
    load_model(bench.file("a.safetensors", bytes(content)))


def saved_state(bench, change):
    state = {key: value.clone() for key, value in bench.model.encoder.state_dict().items()}
    torch.save(change(state), bench.folder / "a.pth")
    return load_model(bench.folder / "a.pth")


@case("checkpoint-with-objects")
def a_checkpoint_with_objects(bench):
    saved_state(bench, lambda state: {**state, "config": Bench})


@case("checkpoint-no-state-dict")
def a_checkpoint_without_tensors(bench):
    saved_state(bench, lambda state: [1, 2, 3])


@case("checkpoint-key-missing")
def a_checkpoint_without_a_key(bench):
    saved_state(bench, lambda state: {key: state[key] for key in state if key != "fc.3.bias"})


@case("checkpoint-other-model")
def a_checkpoint_of_another_model(bench):
    saved_state(bench, lambda state: {"conv.weight": torch.zeros(3, 3)})


@case("checkpoint-with-nan")
def a_checkpoint_with_nan(bench):
    saved_state(bench, lambda state: {**state, "fc.3.bias": state["fc.3.bias"] * float("nan")})


@case("checkpoint-negative-variance")
def a_checkpoint_with_negative_variances(bench):
    key = "features.1.running_var"
    saved_state(bench, lambda state: {**state, key: -state[key]})


@case("checkpoint-other-encoder")
def a_checkpoint_of_another_encoder(bench):
    load_model(bench.checkpoint, "cvt")


@case("checkpoint-unknown-encoder")
def an_unknown_encoder(bench):
    load_model(bench.checkpoint, "vggish")


@case("weights-unknown-name")
def weights_of_an_unknown_name(bench):
    load_model("byols-audiontt-4096")


# --- outputs -------------------------------------------------------------------------------------


@case("output-is-input")
def an_output_that_is_an_input(bench):
    clip = bench.clip.rename(bench.folder / "a.npz")  # audio, whatever its name
    return bench.embed(clip, output="a.npz")


@case("output-other-suffix")
def an_output_of_no_known_format(bench):
    return bench.embed(bench.clip, output="a.xlsx")


@case("output-folder-missing")
def an_output_in_no_folder(bench):
    return bench.embed(bench.clip, output="nowhere/a.npz")


@case("checkpoint-suffix")
def a_checkpoint_of_another_suffix(bench):
    save_checkpoint(bench.model, bench.folder / "a.pth")


@case("checkpoint-facts")
def training_facts_that_are_not_json(bench):
    save_checkpoint(bench.model, bench.folder / "a.safetensors", training_facts={"model": bench})


# -------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path, tiny_model, capsys, monkeypatch):
    monkeypatch.setenv("SERAB_BYOLS_OFFLINE", "1")
    return Bench(tmp_path, tiny_model, capsys)


@pytest.mark.parametrize(("name", "what", "outcome", "message"), RUN, ids=[row[0] for row in RUN])
def test_a_row_of_the_page(bench, name, what, outcome, message):
    message = message.strip("`")
    if outcome.startswith("exit "):
        status, said = CASES[name](bench)
        assert (f"exit {status}", message in said) == (outcome, True), said
    elif outcome == "warning":
        with pytest.warns(UserWarning, match=re.escape(message)):
            CASES[name](bench)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(getattr(errors, outcome), match=re.escape(message)) as caught:
                CASES[name](bench)
        assert type(caught.value).__name__ == outcome


def test_every_case_has_its_row_and_no_row_is_there_twice():
    assert [row[0] for row in RUN] == list(dict.fromkeys(row[0] for row in RUN))
    assert {row[0] for row in RUN} == CASES.keys()


def test_every_test_that_a_row_names_exists():
    tests = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(ELSEWHERE) - tests == set()


def test_every_line_of_a_table_is_read_as_a_row():
    lines = [
        line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("|---", "| id "))
    ]
    assert len(lines) == len(ROWS) > 80

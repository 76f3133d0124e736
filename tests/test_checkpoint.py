"""Checkpoints: both formats there and back, recognition, and what is refused without running anything."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_data import PUBLISHED_512 as PUBLISHED
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import serab_byols
from serab_byols import SerabByolsError, create_model, load_model, save_checkpoint
from serab_byols.checkpoint import (
    FORMAT_VERSION,
    HEADER_KEY,
    read_checkpoint,
    weights_sha256,
    writing,
)
from serab_byols.checkpoint.format import header_sha256
from serab_byols.encoders import create_encoder
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, InvalidInputError
from serab_byols.frontend import RECIPE

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_CVT = {"channels": (8, 8, 8), "heads": (1, 1, 1)}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "default, d=1": ("default", {"d": 1}),
    "default, d=37": ("default", {"d": 37}),
    "resnetish34": ("resnetish34", {}),
    "clstm": ("clstm", {}),
    "cvt, mean+max": ("cvt", SMALL_CVT),
    "cvt, mean": ("cvt", {**SMALL_CVT, "pool": "mean"}),
    "cvt, other sizes": (
        "cvt",
        {"channels": (8, 4, 16), "heads": (2, 1, 3), "depths": (1, 2, 1), "mlp_ratio": 3, "pool": "max"},
    ),
}
FACTS = {"epochs": 3, "corpus": "räusper", "rates": [0.5, 1e-3], "nested": {"loss": None}}
NAN = float("nan")


def trained(encoder: str = "default", **config: Any) -> serab_byols.ByolsModel:
    """A model none of whose numbers is an initial value, buffers included."""
    model = create_model(encoder, **config)
    with torch.no_grad():
        for tensor in model.encoder.state_dict().values():
            tensor.add_((torch.rand(tensor.shape) - 0.5) * 0.01 if tensor.is_floating_point() else 7)
    return model


@functools.cache
def tiny_model() -> serab_byols.ByolsModel:
    """One for all; not to be changed."""
    return trained(d=8)


def tiny_state() -> dict[str, torch.Tensor]:
    return {key: tensor.clone() for key, tensor in tiny_model().encoder.state_dict().items()}


@torch.no_grad()
def embedding(model: serab_byols.ByolsModel) -> torch.Tensor:
    waveform = torch.rand(1, 2000, generator=torch.Generator().manual_seed(0)) - 0.5
    return model(waveform)


def assert_same_weights(model: serab_byols.ByolsModel, expected: dict[str, torch.Tensor]) -> None:
    state = model.encoder.state_dict()
    assert list(state) == list(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, rtol=0, atol=0, msg=key)


def assert_same_embedding(one: serab_byols.ByolsModel, other: serab_byols.ByolsModel) -> None:
    torch.testing.assert_close(embedding(one), embedding(other), rtol=0, atol=0)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[HEADER_KEY])


def both_formats(state: dict[str, torch.Tensor], folder: Path) -> list[Path]:
    """Files that hold ``state`` and nothing else."""
    torch.save(state, folder / "w.pth")
    save_file(state, folder / "w.safetensors")
    return [folder / "w.pth", folder / "w.safetensors"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A whole file in the project's format."""
    return save_checkpoint(tiny_model(), tmp_path / "tiny.safetensors", statistics=(-6, 5))


@pytest.fixture
def tiny_pth(tmp_path: Path) -> Path:
    """A whole state dict, as the published files are."""
    torch.save(tiny_state(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture(params=["tiny", "tiny_pth"])
def whole(request: pytest.FixtureRequest) -> Path:
    """A whole file of either format."""
    path: Path = request.getfixturevalue(request.param)
    return path


# There and back


@pytest.mark.parametrize("name", MODELS)
def test_both_formats_give_the_model_back(name: str, tmp_path: Path) -> None:
    encoder, config = MODELS[name]
    model = trained(encoder, **config)
    expected = model.encoder.state_dict()

    own = load_model(save_checkpoint(model, tmp_path / "own.safetensors"))
    assert_same_weights(own, expected)
    assert own.encoder.config == model.encoder.config
    assert_same_embedding(own, model)

    # How CvT pools leaves no trace in its weights: a bare state dict gets the published way.
    pool = {"pool": "mean+max"} if encoder == "cvt" else {}
    for path in both_formats(expected, tmp_path):
        bare = load_model(path)
        assert_same_weights(bare, expected)
        assert bare.encoder.name == encoder
        assert bare.encoder.config == {**model.encoder.config, **pool}
        assert bare.statistics is None


def test_loaded_models_are_ready_to_embed_and_to_train(tiny: Path) -> None:
    model = load_model(tiny)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())
    model.train()(torch.rand(2, 2000)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_a_loaded_model_does_not_depend_on_the_file(tiny: Path) -> None:
    model = load_model(tiny)
    before = embedding(model)
    with tiny.open("r+b") as file:  # in place, where a mapping of the file would see it
        file.write(b"\0" * tiny.stat().st_size)
    torch.testing.assert_close(embedding(model), before, rtol=0, atol=0)


def test_endings_do_not_matter(tiny: Path, tiny_pth: Path) -> None:
    tiny_pth.rename(swapped := tiny_pth.with_name("legacy.safetensors"))
    tiny.rename(other := tiny.with_name("own.pth"))
    assert read_checkpoint(swapped).format == "PyTorch state dict"
    assert read_checkpoint(other).format.startswith("serab_byols")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    expected = {
        key: tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        for key, tensor in tiny_state().items()
    }
    own = save_checkpoint(tiny_model(), tmp_path / "own.safetensors", dtype=dtype)
    stored = read_checkpoint(own).state
    assert {tensor.dtype for tensor in stored.values()} == {dtype, torch.int64}
    for path in (own, *both_formats(stored, tmp_path)):
        loaded = load_model(path)
        assert loaded.dtype == torch.float32
        assert_same_weights(loaded, expected)
    again = save_checkpoint(loaded.to(dtype), own)
    assert read_checkpoint(again).state["fc.0.weight"].dtype == dtype


def test_strides_and_parameters_in_a_state_dict_do_not_matter(tmp_path: Path) -> None:
    state = tiny_state()
    parameter = torch.nn.Parameter(state["fc.3.weight"])
    parameter.to = parameter.detach = parameter.is_floating_point = "not a method"  # type: ignore
    odd = {
        **state,
        "fc.0.weight": state["fc.0.weight"].T.contiguous().T,
        "features.4.weight": state["features.4.weight"].to(memory_format=torch.channels_last),
        "fc.3.weight": parameter,
    }
    torch.save(odd, tmp_path / "w.pth")
    model = load_model(tmp_path / "w.pth")
    assert_same_weights(model, state)
    assert all(parameter.is_contiguous() for parameter in model.encoder.parameters())


# What a file says of itself


def test_a_file_describes_itself(tmp_path: Path) -> None:
    model = trained("cvt", **SMALL_CVT, pool="mean")
    path = save_checkpoint(model, tmp_path / "m.safetensors", statistics=(-6, 5), training_facts=FACTS)
    header = header_of(path)
    assert header.pop("header_sha256") == header_sha256(header)
    assert header == {
        "format_version": FORMAT_VERSION,
        "encoder": "cvt",
        "encoder_config": {
            "channels": [8, 8, 8],
            "heads": [1, 1, 1],
            "depths": [1, 1, 1],
            "mlp_ratio": 4,
            "pool": "mean",
        },
        "frontend": RECIPE,
        "normalization": {"mean": -6.0, "std": 5.0},
        "training": FACTS,
        "written_by": f"serab_byols {serab_byols.__version__}",
        "weights_sha256": weights_sha256(model.encoder),
    }
    assert RECIPE["sample_rate_hz"] == 16000
    assert RECIPE["n_mels"] == 64


def test_statistics_and_facts_survive_load_and_save(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(tiny_model(), path, statistics=(-6.25, 4.5), training_facts=FACTS)
    for _ in range(2):
        model = load_model(path)
        assert model.statistics == (-6.25, 4.5)
        assert model.training_facts == FACTS
        save_checkpoint(model, path)
    changed = load_model(save_checkpoint(model, path, statistics=(1, 2), training_facts={"epochs": 4}))
    assert changed.statistics == (1.0, 2.0)
    assert changed.training_facts == {**FACTS, "epochs": 4}


def test_auto_is_the_stored_statistics_or_each_clips_own(tiny: Path, tiny_pth: Path) -> None:
    assert_same_embedding(load_model(tiny), load_model(tiny, normalization=(-6.0, 5.0)))
    assert not torch.allclose(embedding(load_model(tiny)), embedding(load_model(tiny_pth)))
    assert load_model(tiny_pth).resolved_normalization == "clip"
    assert_same_embedding(load_model(tiny_pth), load_model(tiny, normalization="clip"))


def test_a_checkpoint_prints_in_short(tiny: Path) -> None:
    first, second = repr(read_checkpoint(tiny)).split("\n")
    assert first == f"Checkpoint('{tiny}', serab_byols safetensors, version 1,"
    assert second.startswith("  encoder 'default', d=8, ")


def test_a_path_may_be_bytes(tiny_pth: Path, tmp_path: Path) -> None:
    model = load_model(os.fsencode(tiny_pth))
    written = save_checkpoint(model, os.fsencode(tmp_path / "written.safetensors"))
    assert load_model(written).source == "written.safetensors"


@pytest.mark.parametrize("path", [None, 5, ["a.pth"], torch.zeros(1)])
def test_what_is_no_path_is_refused(path: Any, tiny: Path) -> None:
    for action in (load_model, read_checkpoint, lambda path: save_checkpoint(load_model(tiny), path)):
        with pytest.raises(InvalidInputError, match=f"must be a path, got {type(path).__name__}"):
            action(path)


def test_the_digest_is_of_the_weights_alone(tiny: Path, tiny_pth: Path) -> None:
    digests = {weights_sha256(load_model(path).encoder) for path in (tiny, tiny_pth)}
    assert digests == {weights_sha256(tiny_model().encoder)}
    assert weights_sha256(trained(d=8).encoder) not in digests


# Names and paths


def test_a_model_name_must_be_that_of_the_file(whole: Path) -> None:
    assert load_model(whole, "default").encoder.name == "default"
    with pytest.raises(CheckpointError, match=r"'default'.*'cvt'"):
        load_model(whole, "cvt")
    with pytest.raises(InvalidInputError, match="default, resnetish34, clstm, cvt"):
        load_model(whole, "resnet")


def test_there_must_be_a_file(tmp_path: Path) -> None:
    wrong = {"missing.pth": "does not exist", ".": "is a folder"}
    if hasattr(os, "mkfifo"):  # which must not be waited for
        os.mkfifo(tmp_path / "pipe.pth")
        wrong["pipe.pth"] = "is no regular file"
    for name, reason in wrong.items():
        with pytest.raises(CheckpointNotFoundError, match=reason) as raised:
            load_model(tmp_path / name)
        assert isinstance(raised.value, FileNotFoundError)
        assert str(tmp_path) in str(raised.value)
    with pytest.raises(CheckpointNotFoundError, match="does not exist"):
        load_model("x" * 5000)


# Writing


@pytest.mark.parametrize("error", [SafetensorError("disk full"), OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file(
    error: BaseException, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tiny.read_bytes()

    def fail(state: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise error

    monkeypatch.setattr(writing, "save_file", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OSError):
        save_checkpoint(tiny_model(), tiny)
    assert tiny.read_bytes() == before
    assert list(tiny.parent.iterdir()) == [tiny]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "m.pth"}, r"\.safetensors"),
        ({"path": "safetensors"}, r"\.safetensors"),
        ({"training_facts": {"model": object()}}, "JSON"),
        ({"training_facts": {"loss": NAN}}, "JSON"),
        ({"training_facts": {"deep": nested(100_000)}}, "JSON"),
        ({"statistics": "auto"}, "two numbers"),
        ({"statistics": (0.0, 0.0)}, "positive std"),
        ({"dtype": torch.int8}, "float16"),
        ({"dtype": torch.float8_e4m3fn}, "float16"),
    ],
)
def test_what_cannot_be_written_is_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match=message):
        save_checkpoint(tiny_model(), **{"path": "m.safetensors", **arguments})
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        save_checkpoint(tiny_model(), "none/m.safetensors")


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    model = trained(d=8)
    with torch.no_grad():
        model.encoder.get_parameter("fc.3.weight")[2, 3] = 1e5  # finite, but not in float16
    path = tmp_path / "m.safetensors"
    with pytest.raises(InvalidInputError, match=r"fc\.3\.weight.*float16"):
        save_checkpoint(model, path, dtype=torch.float16)
    save_checkpoint(model, path, dtype=torch.bfloat16)
    with torch.no_grad():
        model.encoder.get_parameter("fc.3.weight")[2, 3] = NAN
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match=r"fc\.3\.weight.*NaN"):
        save_checkpoint(model, path)
    assert path.read_bytes() == before


# Damage


@pytest.mark.parametrize("kept", [0, 7, 9, 100, 0.5, -200, -1])
def test_truncated_files_are_refused(whole: Path, kept: float) -> None:
    data = whole.read_bytes()
    whole.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=whole.name):
        load_model(whole)


def is_refused_or_harmless(path: Path, data: bytes) -> bool:
    """Whether the bytes are refused, with an error of ours; if not, they give the very weights."""
    path.write_bytes(data)
    try:
        model = load_model(path)
    except SerabByolsError:
        return True
    assert_same_weights(model, tiny_state())
    return False


@pytest.mark.parametrize("part", ["header", "pickle", "directory"])
def test_damage_is_refused_or_harmless(part: str, tiny: Path, tiny_pth: Path) -> None:
    """One to four bytes changed in a part of the file that no digest covers."""
    path = tiny if part == "header" else tiny_pth
    data = path.read_bytes()
    if part == "header":
        positions = range(8 + struct.unpack("<Q", data[:8])[0])
    else:
        with zipfile.ZipFile(path) as archive:
            (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
            pickled = range(entry.header_offset, entry.header_offset + 100 + entry.file_size)
            positions = pickled if part == "pickle" else range(archive.start_dir, len(data))
    rng = random.Random(1)
    n_refused = 0
    for _ in range(80):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.choice(positions)] = rng.randrange(256)
        n_refused += is_refused_or_harmless(path, bytes(changed))
    assert n_refused > 50


def test_an_entry_that_is_marked_as_a_folder_is_refused(tiny_pth: Path) -> None:
    """One bit in the directory, for which torch returns uninitialised memory."""
    data = bytearray(tiny_pth.read_bytes())
    with zipfile.ZipFile(tiny_pth) as archive:
        position = archive.start_dir
        n_entries = len(archive.infolist())
    for _ in range(n_entries // 2):
        position = data.index(b"PK\x01\x02", position + 1)
    data[position + 38] |= 0x10  # external attributes, MS-DOS
    tiny_pth.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tiny_pth)


def test_a_single_wrong_bit_in_the_weights_is_refused(whole: Path) -> None:
    data = bytearray(whole.read_bytes())
    data[bytes(data).index(tiny_state()["fc.3.weight"].numpy().tobytes()) + 4] ^= 1
    whole.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(whole)


@pytest.mark.parametrize("value", [NAN, -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    state = tiny_state()
    state["features.5.running_var"][3] = value
    for path in both_formats(state, tmp_path):
        with pytest.raises(CheckpointError, match=r"features\.5\.running_var.*NaN or infinity"):
            load_model(path)


# Descriptions that are wrong


def described(path: Path, model: serab_byols.ByolsModel, **changes: Any) -> Path:
    """The model in a file whose description is right but for ``changes``."""
    header = {**header_of(save_checkpoint(model, path)), **changes}
    with suppress(ValueError):  # NaN has no checksum
        header["header_sha256"] = changes.get("header_sha256", header_sha256(header))
    save_file(model.encoder.state_dict(), path, {HEADER_KEY: json.dumps(header)})
    return path


WRONG: dict[str, tuple[Any, ...]] = {
    "format_version": (FORMAT_VERSION + 1, 0, "1", 1.5, True, None, 10**400),
    "encoder": ("resnet", "cvt", None, ["default"]),
    "encoder_config": (
        *(None, [], {}, {"d": 8, "layers": 10**12}),
        *({"d": d} for d in (9, -1, 10**12, "8", None, True, [8], NAN)),
    ),
    "frontend": (None, "log-mel", {}, {**RECIPE, "sample_rate_hz": 8000}),
    "normalization": (
        *("clip", [1, 2], {"mean": 0}, {"mean": "0", "std": "1"}, {"mean": True, "std": True}),
        *({"mean": 0, "std": 0}, {"mean": 10**400, "std": 1}, {"mean": NAN, "std": 1}),
    ),
    "training": (None, "x", [[1, 2]], {"loss": NAN}),
    "written_by": (None, 5),
    "weights_sha256": (None, 5, "0" * 64),
    "header_sha256": (5, "0" * 64),
}


@pytest.mark.parametrize("key", WRONG)
def test_a_wrong_description_is_refused(key: str, tmp_path: Path) -> None:
    path = described(tmp_path / "wrong.safetensors", tiny_model())
    assert_same_weights(load_model(path), tiny_state())
    for value in WRONG[key]:
        described(path, tiny_model(), **{key: value})
        with pytest.raises(CheckpointError, match=r"wrong\.safetensors") as raised:
            load_model(path)
        assert key == "header_sha256" or "is not the one that was written" not in str(raised.value)


@pytest.mark.parametrize("description", ["", "{", "null", "5", "{}", "1" * 5000, "[" * 100_000, "\ufeff{}"])
def test_a_description_that_is_none_is_refused(description: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file(tiny_state(), path, {HEADER_KEY: description})
    with pytest.raises(CheckpointError, match=r"wrong\.safetensors describes itself wrongly"):
        load_model(path)


def test_a_wrong_configuration_of_cvt_is_refused(tmp_path: Path) -> None:
    model = trained("cvt", **SMALL_CVT)
    config = json.loads(json.dumps(model.encoder.config))
    path = tmp_path / "cvt.safetensors"
    load_model(described(path, model, encoder_config=config))
    for key, values in {
        "heads": ([10**12, 1, 1], [1, 1]),
        "channels": ([8, 8, 10**12], ["8", 8, 8], 8),
        "depths": ([1, 1, 10**9], [0, 1, 1]),
        "mlp_ratio": (10**12, -1),
        "pool": ("sum", ["max"], None),
        "stages": (3,),
    }.items():
        for value in values:
            described(path, model, encoder_config={**config, key: value})
            with pytest.raises(CheckpointError, match=r"cvt\.safetensors"):
                load_model(path)


# Tensors that are wrong


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        # The layer that nobody stored would take 250 GB, or more than there are addresses.
        ("fc.0.weight", (250_000, 1), r"fc\.0\.weight has shape \(250000, 1\), expected \(250000, 512\)"),
        ("fc.0.weight", (10**12, 0), "1000000000000"),
        ("fc.0.weight", (0, 512), "d=0"),
        ("fc.0.weight", (), "looks like the encoder 'default'"),
        ("fc.3.weight", (8, 8, 1), r"\(8, 8, 1\), expected \(8, 8\)"),
        ("layers.0.2.layers.0.0.fn.to_q.net.2.weight", (63, 8, 1, 1), "looks like the encoder 'cvt'"),
        ("layers.0.2.layers.0.0.fn.to_q.net.2.weight", (), "looks like the encoder 'cvt'"),
        ("layers.0.2.layers.0.1.fn.net.0.weight", (8, 0, 1, 1), "looks like the encoder 'cvt'"),
        ("layers.2.0.weight", (0, 8, 3, 3), "looks like the encoder 'cvt'"),
    ],
)
def test_wrong_shapes_take_no_memory(key: str, shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    model = tiny_model() if key.startswith("fc") else create_model("cvt", **SMALL_CVT)
    for path in both_formats({**model.encoder.state_dict(), key: torch.zeros(shape)}, tmp_path):
        with pytest.raises(CheckpointError, match=message):
            load_model(path)


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = tiny_state()
    state["extra.weight"] = state.pop("fc.3.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"fc\.3\.bias is missing; 'extra\.weight' is unexpected"):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(8, 8, dtype=torch.int64), "int64, expected torch.float32"),
        (lambda: torch.ones(8, 8).to(torch.float8_e4m3fn), "float8_e4m3fn, expected torch.float32"),
        (lambda: torch.eye(8).to_sparse(), "no ordinary tensor"),
        (lambda: torch.empty(8, 8, device="meta"), "no ordinary tensor"),
        (lambda: torch.ones(1).expand(8, 8), "repeats fewer numbers"),
    ],
    ids=["integers", "float8", "sparse", "meta", "expanded"],
)
def test_odd_tensors_are_refused(make: Callable[[], torch.Tensor], message: str, tmp_path: Path) -> None:
    torch.save({**tiny_state(), "fc.3.weight": make()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"fc\.3\.weight .*{message}"):
        load_model(tmp_path / "w.pth")


# Foreign files


def test_the_resnet_of_photographs_is_refused(tmp_path: Path) -> None:
    """It has the names and nearly all the shapes of ours."""
    with torch.device("meta"):
        shapes = create_encoder("resnetish34").state_dict()
    state = {key: torch.zeros(like.shape, dtype=like.dtype) for key, like in shapes.items()}
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    torch.save(state, tmp_path / "resnet34.pth")
    with pytest.raises(CheckpointError, match=r"'resnetish34'.*fc\.weight") as raised:
        load_model(tmp_path / "resnet34.pth")
    assert "conv1.weight has shape (64, 3, 7, 7), expected (64, 1, 7, 7)" in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: create_model(d=8).encoder, "more than tensors.*could run code.*save_checkpoint"),
        (lambda: {"state_dict": tiny_state(), "epoch": 3}, "not a state dict.*'state_dict', 'epoch'"),
        (lambda: {5: torch.zeros(1)}, "not a state dict"),
        (lambda: torch.zeros(3), "not a state dict.*Tensor"),
        (lambda: None, "not a state dict.*None"),
        (dict, "no BYOL-S encoder.*0 tensors"),
        (lambda: torch.nn.Linear(3, 4).state_dict(), "no BYOL-S encoder.*2 tensors.*'weight', 'bias'"),
        (
            lambda: torch.nn.ModuleList([tiny_model()]).state_dict(),
            r"no BYOL-S encoder.*'0\.encoder\.features.*Save a model with serab_byols\.save_checkpoint",
        ),
    ],
    ids=["module", "training run", "numbered", "tensor", "None", "empty", "linear", "model in a module"],
)
def test_other_archives_are_refused(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=rf"foreign\.pth.*{message}"):
        load_model(tmp_path / "foreign.pth")


def test_the_state_dict_of_a_whole_model_is_that_of_its_encoder(tmp_path: Path) -> None:
    model = tiny_model()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    loaded = load_model(tmp_path / "model.pth")
    assert weights_sha256(loaded.encoder) == weights_sha256(model.encoder)
    state = {**model.state_dict(), "head.weight": torch.zeros(2, 8)}
    torch.save(state, tmp_path / "classifier.pth")
    with pytest.raises(CheckpointError, match=r"no BYOL-S encoder.*save_checkpoint"):
        load_model(tmp_path / "classifier.pth")


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def archive_of(value: object, **arguments: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **arguments)
    return file.getvalue()


def assert_refused(data: bytes, folder: Path, message: str = "") -> None:
    """Whatever the file's ending says."""
    for name in ("foreign.pth", "foreign.safetensors"):
        (folder / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
            load_model(folder / name)


FOREIGN = {
    "a zip": zipped({"readme.txt": b"hello"}),
    "an empty pickle": zipped({"w/data.pkl": b""}),
    "an empty zip": zipped({}),
    "TorchScript": zipped({"w/data.pkl": b"\x80\x02}q\x00.", "w/constants.pkl": b"\x80\x02)."}),
    "a zip without a directory": b"PK\x03\x04" + b"\0" * 100,
    "safetensors without tensors": struct.pack("<Q", 2) + b"{}",
    "an absurd header length": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "a long header length": struct.pack("<Q", 1 << 40) + b"{}",
    "a blank header": struct.pack("<Q", 20) + b"{" + b" " * 18 + b"}",
    "a header of brackets": struct.pack("<Q", 100) + b"{" + b"[" * 99,
    "sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "a web page": b"<!DOCTYPE html><title>404</title>",
}


@pytest.mark.parametrize("what", FOREIGN)
def test_other_files_are_refused(what: str, tmp_path: Path) -> None:
    assert_refused(FOREIGN[what], tmp_path)


def test_the_old_format_of_torch_is_refused(tmp_path: Path) -> None:
    old = archive_of(tiny_state(), _use_new_zipfile_serialization=False)
    assert_refused(old, tmp_path, r"torch\.save of 1\.6 or newer")
    # Whoever finds the zip directory at the end would hand the pickle at the beginning to torch.
    two_faced = old + zipped({"a": b"b"})
    assert zipfile.is_zipfile(io.BytesIO(two_faced))
    assert_refused(two_faced, tmp_path, "neither")


def test_an_archive_that_would_unpack_to_more_is_refused(tiny_pth: Path) -> None:
    with zipfile.ZipFile(tiny_pth) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    tiny_pth.write_bytes(zipped(entries))
    load_model(tiny_pth)
    entries["tiny/data/99"] = b"\0" * 10_000_000
    tiny_pth.write_bytes(zipped(entries, zipfile.ZIP_DEFLATED))
    assert tiny_pth.stat().st_size < 1_000_000
    with pytest.raises(CheckpointError, match="unpack"):
        load_model(tiny_pth)


# Malice


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


ENVELOPES: dict[str, Callable[[object], bytes]] = {
    "pickle": pickle.dumps,
    "archive": archive_of,
    "value": lambda evil: archive_of({**tiny_state(), "fc.3.bias": evil}),
    "key": lambda evil: archive_of({**tiny_state(), evil: torch.zeros(1)}),
    "old": lambda evil: archive_of(evil, _use_new_zipfile_serialization=False),
    "old and zip": lambda evil: archive_of(evil, _use_new_zipfile_serialization=False) + zipped({"a": b"b"}),
    "pickle and zip": lambda evil: pickle.dumps(evil) + zipped({"a": b"b"}),
    "by hand": lambda evil: zipped({"w/data.pkl": pickle.dumps(evil, 2), "w/version": b"3"}),
    "torchscript": lambda evil: zipped({"w/data.pkl": pickle.dumps(evil, 2), "w/constants.pkl": b"."}),
}


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_a_pickle_that_would_run_code_runs_nothing(envelope: str, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    data = ENVELOPES[envelope](RunsCode(marker))
    assert marker.name.encode() in data
    assert_refused(data, tmp_path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(RunsCode(marker)))
    assert marker.exists()  # so the code would run


# The published weights


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not here")
def test_the_published_weights_load_strictly() -> None:
    model = load_model(PUBLISHED)
    assert model.encoder.name == "default"
    assert model.encoder.config == {"d": 512}
    assert model.embedding_size == 512
    assert_same_weights(model, torch.load(PUBLISHED, weights_only=True))
    assert load_model(PUBLISHED, "default").source == PUBLISHED.name
    result = embedding(model)
    assert result.shape == (1, 512)
    assert result.isfinite().all()

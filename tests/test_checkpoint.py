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
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_data import PUBLISHED_512 as PUBLISHED
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import serab_byols
from serab_byols import (
    SerabByolsError,
    create_model,
    load_model,
    save_checkpoint,
)
from serab_byols.checkpoint import (
    DEFAULT_CHECKPOINT,
    FORMAT_VERSION,
    HEADER_KEY,
    read_checkpoint,
    reading,
    registry,
    weights_sha256,
    writing,
)
from serab_byols.errors import CheckpointError, CheckpointNotFoundError, InvalidInputError
from serab_byols.frontend import RECIPE

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODERS = {
    "default, tiny": ("default", {"d": 8}),
    "default, odd": ("default", {"d": 37}),
    "resnetish34": ("resnetish34", {}),
    "clstm": ("clstm", {}),
    "cvt": ("cvt", {}),
    "cvt, small": (
        "cvt",
        {"channels": (8, 4, 16), "heads": (2, 1, 3), "depths": (1, 2, 1), "mlp_ratio": 3, "pool": "max"},
    ),
}
FACTS = {"epochs": 3, "corpus": "räusper", "rates": [0.5, 1e-3], "nested": {"loss": None}}


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


def waveform() -> torch.Tensor:
    return torch.rand(1, 2000, generator=torch.Generator().manual_seed(0)) - 0.5


@torch.no_grad()
def embedding(model: serab_byols.ByolsModel) -> torch.Tensor:
    return model(waveform())


def assert_same_weights(model: serab_byols.ByolsModel, expected: dict[str, torch.Tensor]) -> None:
    state = model.encoder.state_dict()
    assert list(state) == list(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, rtol=0, atol=0, msg=key)


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[HEADER_KEY])


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A whole file in the project's format."""
    return save_checkpoint(tiny_model(), tmp_path / "tiny.safetensors", statistics=(-6, 5))


@pytest.fixture
def tiny_pth(tmp_path: Path) -> Path:
    """A whole state dict, as the published files are."""
    torch.save(tiny_state(), tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


# There and back


@pytest.mark.parametrize("name", ENCODERS)
def test_both_formats_give_the_model_back(name: str, tmp_path: Path) -> None:
    encoder, config = ENCODERS[name]
    model = trained(encoder, **config)
    expected = model.encoder.state_dict()

    own = load_model(save_checkpoint(model, tmp_path / "own.safetensors"))
    assert_same_weights(own, expected)
    assert own.encoder.config == model.encoder.config
    torch.testing.assert_close(embedding(own), embedding(model), rtol=0, atol=0)

    torch.save(expected, tmp_path / "legacy.pth")
    legacy = load_model(tmp_path / "legacy.pth")
    assert_same_weights(legacy, expected)
    assert legacy.encoder.name == encoder
    # How features are pooled leaves no trace in weights: a bare state dict gets the published way.
    pool = {"pool": "mean+max"} if encoder == "cvt" else {}
    assert legacy.encoder.config == {**model.encoder.config, **pool}


@pytest.mark.parametrize("d", [512, 2048, 37, 1])
def test_a_state_dict_tells_its_size(d: int, tmp_path: Path) -> None:
    torch.save(create_model(d=d).encoder.state_dict(), tmp_path / "w.pth")
    model = load_model(tmp_path / "w.pth")
    assert model.encoder.name == "default"
    assert model.encoder.config == {"d": d}
    assert embedding(model).shape == (1, d)


@pytest.mark.parametrize("pool", ["mean+max", "mean", "max"])
def test_the_pooling_of_cvt_is_kept(pool: str, tmp_path: Path) -> None:
    model = trained("cvt", channels=(8, 8, 8), heads=(1, 1, 1), pool=pool)
    loaded = load_model(save_checkpoint(model, tmp_path / "cvt.safetensors"))
    assert loaded.encoder.config["pool"] == pool
    torch.testing.assert_close(embedding(loaded), embedding(model), rtol=0, atol=0)


def test_loaded_models_are_ready_to_embed_and_to_train(tiny: Path) -> None:
    model = load_model(tiny)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())
    model.train()(waveform().expand(2, -1)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_loading_takes_no_hold_of_the_file(tiny: Path) -> None:
    model = load_model(tiny)
    before = embedding(model)
    with tiny.open("r+b") as file:  # in place, where a mapping of the file would see it
        file.write(b"\0" * tiny.stat().st_size)
    torch.testing.assert_close(embedding(model), before, rtol=0, atol=0)


def test_safetensors_without_a_description_are_recognised(tmp_path: Path) -> None:
    state = tiny_state()
    save_file(state, tmp_path / "plain.safetensors")
    save_file(state, tmp_path / "others.safetensors", {"format": "pt", "author": "someone"})
    for name in ("plain", "others"):
        model = load_model(tmp_path / f"{name}.safetensors")
        assert_same_weights(model, state)
        assert model.statistics is None


def test_names_say_nothing(tiny: Path, tiny_pth: Path) -> None:
    tiny_pth.rename(swapped := tiny_pth.with_name("legacy.safetensors"))
    tiny.rename(other := tiny.with_name("own.pth"))
    assert read_checkpoint(swapped).format == "PyTorch state dict"
    assert read_checkpoint(other).format.startswith("serab_byols")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_load_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(d=8)
    expected = {
        key: tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        for key, tensor in model.encoder.state_dict().items()
    }
    own = save_checkpoint(model, tmp_path / "own.safetensors", dtype=dtype)
    stored = read_checkpoint(own).state
    assert {tensor.dtype for tensor in stored.values()} == {dtype, torch.int64}
    torch.save(stored, tmp_path / "legacy.pth")
    for path in (own, tmp_path / "legacy.pth"):
        loaded = load_model(path)
        assert loaded.dtype == torch.float32
        assert_same_weights(loaded, expected)


def test_a_model_in_half_precision_is_saved_as_it_is(tmp_path: Path) -> None:
    path = save_checkpoint(trained(d=8).half(), tmp_path / "half.safetensors")
    assert read_checkpoint(path).state["fc.0.weight"].dtype == torch.float16
    assert load_model(path).dtype == torch.float32


# What a file says of itself


def test_a_file_describes_itself(tmp_path: Path) -> None:
    model = trained("cvt", channels=(8, 8, 8), heads=(1, 1, 1), pool="mean")
    path = save_checkpoint(model, tmp_path / "m.safetensors", statistics=(-6, 5), training_facts=FACTS)
    assert header_of(path) == {
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
    first = tmp_path / "first.safetensors"
    save_checkpoint(trained(d=8), first, statistics=(-6.25, 4.5), training_facts=FACTS)
    model = load_model(first)
    assert model.statistics == (-6.25, 4.5)
    assert model.training_facts == FACTS

    again = load_model(save_checkpoint(model, tmp_path / "again.safetensors"))
    assert again.statistics == (-6.25, 4.5)
    assert again.training_facts == FACTS

    changed = save_checkpoint(
        model, tmp_path / "changed.safetensors", statistics=(1, 2), training_facts={"epochs": 4}
    )
    assert load_model(changed).statistics == (1.0, 2.0)
    assert load_model(changed).training_facts == {**FACTS, "epochs": 4}


def test_auto_is_the_stored_statistics(tiny: Path) -> None:
    auto = embedding(load_model(tiny))
    torch.testing.assert_close(auto, embedding(load_model(tiny, normalization=(-6.0, 5.0))), rtol=0, atol=0)
    assert not torch.allclose(auto, embedding(load_model(tiny, normalization="clip")))


def test_auto_without_stored_statistics_is_each_clips_own(tiny_pth: Path) -> None:
    model = load_model(tiny_pth)
    assert model.resolved_normalization == "clip"
    torch.testing.assert_close(
        embedding(model), embedding(load_model(tiny_pth, normalization="clip")), rtol=0, atol=0
    )


def test_the_digest_is_of_the_weights_alone(tmp_path: Path) -> None:
    model = trained(d=8)
    digest = weights_sha256(model.encoder)
    torch.save(model.encoder.state_dict(), tmp_path / "a.pth")
    assert weights_sha256(load_model(tmp_path / "a.pth").encoder) == digest
    own = save_checkpoint(model, tmp_path / "a.safetensors", training_facts=FACTS)
    assert weights_sha256(load_model(own).encoder) == digest
    assert weights_sha256(trained(d=8).encoder) != digest


# Names, paths, defaults


def test_a_contradicting_name_is_refused_with_both(tiny: Path, tiny_pth: Path) -> None:
    for path in (tiny, tiny_pth):
        assert load_model(path, "default").encoder.name == "default"
        with pytest.raises(CheckpointError, match=r"'default'.*'cvt'"):
            load_model(path, "cvt")


def test_an_unknown_name_is_refused_with_the_choices(tiny: Path) -> None:
    with pytest.raises(InvalidInputError, match="default, resnetish34, clstm, cvt"):
        load_model(tiny, "resnet")


@pytest.mark.parametrize(("name", "said"), [("missing.pth", "does not exist"), (".", "is a folder")])
def test_there_must_be_a_file(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=said) as raised:
        load_model(tmp_path / name)
    assert isinstance(raised.value, FileNotFoundError)
    assert str(tmp_path) in str(raised.value)


def test_a_path_that_cannot_be_is_an_error_of_ours() -> None:
    with pytest.raises(SerabByolsError, match="cannot be read"):
        load_model("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointNotFoundError, match="no regular file"):
        load_model(tmp_path / "pipe.pth")


def test_the_default_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = (tmp_path / "of the wheel", tmp_path / "of the tree")
    monkeypatch.setattr(registry, "CHECKPOINT_FOLDERS", folders)
    with pytest.raises(CheckpointNotFoundError, match=r'load_model\("path/to/weights.*create_model\('):
        load_model()
    with pytest.raises(FileNotFoundError):
        load_model(model_name="default")
    for folder, d in zip(reversed(folders), (8, 9), strict=True):  # the first folder wins
        folder.mkdir()
        save_checkpoint(trained(d=d), folder / DEFAULT_CHECKPOINT)
        assert load_model().embedding_size == d
    assert load_model("", "default").source == DEFAULT_CHECKPOINT
    with pytest.raises(CheckpointError, match=r"'default'.*'clstm'"):
        load_model(model_name="clstm")


# Writing


@pytest.mark.parametrize("name", ["m.pth", "m", "m.safetensors.bak", "safetensors"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\.safetensors"):
        save_checkpoint(create_model(d=8), tmp_path / name)
    assert not list(tmp_path.iterdir())


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
        save_checkpoint(create_model(d=8), tiny)
    assert tiny.read_bytes() == before
    assert list(tiny.parent.iterdir()) == [tiny]


def test_a_save_replaces_the_old_file(tiny: Path) -> None:
    model = trained(d=9)
    assert save_checkpoint(model, tiny) == tiny
    assert_same_weights(load_model(tiny), model.encoder.state_dict())
    assert list(tiny.parent.iterdir()) == [tiny]


def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_checkpoint(create_model(d=8), tmp_path / "none" / "m.safetensors")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"training_facts": {"model": object()}}, "JSON"),
        ({"training_facts": {"loss": float("nan")}}, "JSON"),
        ({"training_facts": {"deep": nested(100_000)}}, "JSON"),
        ({"statistics": "auto"}, "two numbers"),
        ({"statistics": (0.0, 0.0)}, "positive std"),
        ({"statistics": (float("nan"), 1.0)}, "finite mean"),
        ({"dtype": torch.int8}, "float16"),
        ({"dtype": torch.float8_e4m3fn}, "float16"),
    ],
)
def test_what_cannot_be_written_is_refused(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=said):
        save_checkpoint(create_model(d=8), tmp_path / "m.safetensors", **arguments)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    model = trained(d=8)
    with torch.no_grad():
        model.encoder.get_parameter("fc.3.weight")[2, 3] = 1e5  # finite, but not in float16
    path = tmp_path / "m.safetensors"
    with pytest.raises(InvalidInputError, match=r"fc\.3\.weight.*float16"):
        save_checkpoint(model, path, dtype=torch.float16)
    save_checkpoint(model, path, dtype=torch.bfloat16)
    with torch.no_grad():
        model.encoder.get_parameter("fc.3.weight")[2, 3] = torch.nan
    before = path.read_bytes()
    with pytest.raises(InvalidInputError, match=r"fc\.3\.weight.*NaN"):
        save_checkpoint(model, path)
    assert path.read_bytes() == before


# Damage


def assert_refused_or_unharmed(path: Path, data: bytes, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the bytes are refused, with an error of ours; if not, they give the very weights."""
    path.write_bytes(data)
    try:
        model = load_model(path)
    except SerabByolsError:
        return True
    assert_same_weights(model, expected)
    return False


@pytest.mark.parametrize("kept", [0, 1, 4, 7, 8, 9, 100, 0.25, 0.5, 0.99, -200, -23, -1])
@pytest.mark.parametrize("form", ["tiny", "tiny_pth"])
def test_truncated_files_are_refused(form: str, kept: float, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(form)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=path.name):
        load_model(path)


def flipped(data: bytes, positions: range, rng: random.Random) -> bytes:
    """One to four bytes replaced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.choice(positions)] = rng.randrange(256)
    return bytes(changed)


def test_a_damaged_header_is_refused_or_harmless(tiny: Path) -> None:
    data, expected = tiny.read_bytes(), load_model(tiny).encoder.state_dict()
    header = range(8 + struct.unpack("<Q", data[:8])[0])
    rng = random.Random(1)
    refused = [assert_refused_or_unharmed(tiny, flipped(data, header, rng), expected) for _ in range(150)]
    assert sum(refused) > 120


@pytest.mark.parametrize("part", ["pickle", "directory"])
def test_a_damaged_archive_is_refused_or_harmless(part: str, tiny_pth: Path) -> None:
    data, expected = tiny_pth.read_bytes(), load_model(tiny_pth).encoder.state_dict()
    with zipfile.ZipFile(tiny_pth) as archive:
        (entry,) = (entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
        pickled = range(entry.header_offset, entry.header_offset + 100 + entry.file_size)
        positions = pickled if part == "pickle" else range(archive.start_dir, len(data))
    rng = random.Random(2)
    refused = [
        assert_refused_or_unharmed(tiny_pth, flipped(data, positions, rng), expected) for _ in range(150)
    ]
    assert sum(refused) > 100


def test_a_part_that_is_marked_as_a_folder_is_refused(tiny_pth: Path) -> None:
    """One bit in the directory, for which torch gives back whatever lay in memory."""
    data = bytearray(tiny_pth.read_bytes())
    with zipfile.ZipFile(tiny_pth) as archive:
        first = archive.start_dir
        n_parts = len(archive.infolist())
    part = first
    for _ in range(n_parts // 2):
        part = data.index(b"PK\x01\x02", part + 1)
    data[part + 38] |= 0x10  # external attributes, MS-DOS
    tiny_pth.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(tiny_pth)


@pytest.mark.parametrize("form", ["tiny", "tiny_pth"])
def test_a_single_wrong_bit_in_the_weights_is_refused(form: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(form)
    data = bytearray(path.read_bytes())
    stored = load_model(path).encoder.state_dict()["fc.3.weight"].numpy().tobytes()
    data[bytes(data).index(stored) + 4] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


@pytest.mark.parametrize("length", [10, 1 << 20, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_an_absurd_header_length_is_refused(length: int, tiny: Path) -> None:
    tiny.write_bytes(struct.pack("<Q", length) + tiny.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_model(tiny)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    state = tiny_state()
    state["features.5.running_var"][3] = value
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        with pytest.raises(CheckpointError, match=r"features\.5\.running_var.*NaN or infinity"):
            load_model(path)


# Descriptions that are wrong


def described(path: Path, **changes: Any) -> Path:
    """The tiny model in a file whose description is right but for ``changes``."""
    header = header_of(save_checkpoint(tiny_model(), path))
    return with_description(path, tiny_state(), json.dumps({**header, **changes}))


def with_description(path: Path, state: dict[str, torch.Tensor], description: str) -> Path:
    save_file(state, path, {HEADER_KEY: description})
    return path


def test_the_descriptions_below_are_wrong_in_one_thing_only(tmp_path: Path) -> None:
    assert_same_weights(load_model(described(tmp_path / "m.safetensors")), tiny_state())


NAN = float("nan")
WRONG: dict[str, tuple[Any, ...]] = {
    "format_version": (FORMAT_VERSION + 1, 0, -3, "1", 1.5, True, None, [], 10**400, NAN),
    "encoder": ("resnet", "cvt", "", 5, None, [], {}, ["default"]),
    "encoder_config": (
        *(None, [], "d", 8, {}, {"d": 8, "layers": 10**12}),
        *({"d": d} for d in (9, 0, -1, 10**12, 10**30, "8", None, True, [8], {"d": 8}, NAN, float("inf"))),
    ),
    "frontend": (None, [], "log-mel", {}, {**RECIPE, "sample_rate_hz": 8000}),
    "normalization": (
        *(5, "clip", [], [1, 2], {}, {"mean": 0}, {"mean": "0", "std": "1"}, {"mean": True, "std": True}),
        *({"mean": 0, "std": 0}, {"mean": 0, "std": -1}, {"mean": 10**400, "std": 1}),
        *({"mean": NAN, "std": 1}, {"mean": [], "std": {}}),
    ),
    "training": (None, 5, "x", [], [[1, 2]], {"loss": NAN}),
    "written_by": (None, 5, []),
    "weights_sha256": (None, 5, "", "0" * 64),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG.items() for value in values],
    ids=lambda part: json.dumps(part)[:40],
)
def test_a_wrong_description_is_refused(key: str, value: object, tmp_path: Path) -> None:
    path = described(tmp_path / "wrong.safetensors", **{key: value})
    with pytest.raises(CheckpointError, match=r"wrong\.safetensors"):
        load_model(path)


@pytest.mark.parametrize(
    "description",
    ["", "{", "[]", "null", "5", '"text"', "{}", "1" * 5000, "[" * 100_000, '{"a":' * 100_000, "\ufeff{}"],
    ids=lambda description: repr(description[:8]),
)
def test_a_description_that_is_none_is_refused(description: str, tmp_path: Path) -> None:
    path = with_description(tmp_path / "wrong.safetensors", tiny_state(), description)
    with pytest.raises(CheckpointError, match=r"wrong\.safetensors describes itself wrongly"):
        load_model(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": [10**12, 1, 1]},
        {"heads": [1, 1]},
        {"channels": [8, 8, 10**12]},
        {"channels": ["8", 8, 8]},
        {"channels": 8},
        {"depths": [1, 1, 10**9]},
        {"depths": [0, 1, 1]},
        {"mlp_ratio": 10**12},
        {"mlp_ratio": -1},
        {"pool": "sum"},
        {"pool": ["max"]},
        {"pool": None},
        {"stages": 3},
    ],
    ids=json.dumps,
)
def test_a_wrong_configuration_of_cvt_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    model = trained("cvt", channels=(8, 8, 8), heads=(1, 1, 1))
    path = save_checkpoint(model, tmp_path / "cvt.safetensors")
    header = header_of(path)
    with_description(path, model.encoder.state_dict(), json.dumps(header))
    load_model(path)
    header["encoder_config"].update(changes)
    with_description(path, model.encoder.state_dict(), json.dumps(header))
    with pytest.raises(CheckpointError, match=r"cvt\.safetensors"):
        load_model(path)


def test_a_claimed_size_is_refused_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = described(tmp_path / "huge.safetensors", encoder_config={"d": 10**12})

    def built(*_: object, **__: object) -> None:
        raise AssertionError("an encoder was built")

    monkeypatch.setattr(reading, "create_encoder", built)
    with pytest.raises(CheckpointError, match="d=1000000000000, but its weights have d=8"):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        # The layer that nobody stored would take 250 GB, or more than there are addresses.
        ("fc.0.weight", (250_000, 1), r"fc\.0\.weight has shape \(250000, 1\), expected \(250000, 512\)"),
        ("fc.0.weight", (10**12, 0), "1000000000000"),
        ("fc.0.weight", (0, 512), "d=0"),
        ("fc.0.weight", (), "looks like the encoder 'default'"),
        ("fc.3.weight", (8, 7), r"\(8, 7\), expected \(8, 8\)"),
        ("fc.3.weight", (8, 8, 1), r"\(8, 8, 1\), expected \(8, 8\)"),
    ],
)
def test_wrong_shapes_take_no_memory(key: str, shape: tuple[int, ...], said: str, tmp_path: Path) -> None:
    state = tiny_state()
    state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        with pytest.raises(CheckpointError, match=said):
            load_model(path)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("layers.0.2.layers.0.0.fn.to_q.net.2.weight", (63, 8, 1, 1)),
        ("layers.0.2.layers.0.0.fn.to_q.net.2.weight", ()),
        ("layers.0.2.layers.0.1.fn.net.0.weight", (7, 8, 1, 1)),
        ("layers.0.2.layers.0.1.fn.net.0.weight", (8, 0, 1, 1)),
        ("layers.0.2.layers.0.1.fn.net.0.weight", (8,)),
        ("layers.2.0.weight", (0, 8, 3, 3)),
    ],
)
def test_wrong_shapes_of_cvt_are_refused(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    state = dict(trained("cvt", channels=(8, 8, 8), heads=(1, 1, 1)).encoder.state_dict())
    state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth looks like the encoder 'cvt'"):
        load_model(tmp_path / "w.pth")


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = tiny_state()
    state["extra.weight"] = state.pop("fc.3.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"fc\.3\.bias is missing; 'extra\.weight' is unexpected"):
        load_model(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.ones(8, 8, dtype=torch.int64), "int64, expected torch.float32"),
        (lambda: torch.ones(8, 8, dtype=torch.complex64), "complex64, expected torch.float32"),
        (lambda: torch.ones(8, 8).to(torch.float8_e4m3fn), "float8_e4m3fn, expected torch.float32"),
        (lambda: torch.eye(8).to_sparse(), "no ordinary tensor"),
        (lambda: torch.empty(8, 8, device="meta"), "no ordinary tensor"),
        (lambda: torch.ones(1).expand(8, 8), "repeats fewer numbers"),
    ],
    ids=["integers", "complex", "float8", "sparse", "meta", "expanded"],
)
def test_odd_tensors_are_refused(make: Callable[[], torch.Tensor], said: str, tmp_path: Path) -> None:
    torch.save({**tiny_state(), "fc.3.weight": make()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=rf"fc\.3\.weight .*{said}"):
        load_model(tmp_path / "w.pth")


def test_strides_of_a_state_dict_do_not_matter(tmp_path: Path) -> None:
    state = tiny_state()
    turned = {
        **state,
        "fc.0.weight": state["fc.0.weight"].T.contiguous().T,
        "features.4.weight": state["features.4.weight"].to(memory_format=torch.channels_last),
    }
    torch.save(turned, tmp_path / "w.pth")
    model = load_model(tmp_path / "w.pth")
    assert_same_weights(model, state)
    assert all(parameter.is_contiguous() for parameter in model.encoder.parameters())


def test_parameters_and_their_attributes_do_not_matter(tmp_path: Path) -> None:
    state = tiny_state()
    parameter = torch.nn.Parameter(state["fc.3.weight"])
    parameter.to = parameter.detach = parameter.is_floating_point = "not a method"  # type: ignore
    torch.save({**state, "fc.3.weight": parameter}, tmp_path / "w.pth")
    assert_same_weights(load_model(tmp_path / "w.pth"), state)


# Foreign files


def imagenet_resnet34() -> dict[str, torch.Tensor]:
    """Names and shapes of the ResNet-34 that classifies photographs."""
    state = dict(create_model("resnetish34").encoder.state_dict())
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    return state


def test_the_resnet_of_photographs_is_refused(tmp_path: Path) -> None:
    torch.save(imagenet_resnet34(), tmp_path / "resnet34.pth")
    with pytest.raises(CheckpointError, match=r"'resnetish34'.*fc\.weight") as raised:
        load_model(tmp_path / "resnet34.pth")
    assert "conv1.weight has shape (64, 3, 7, 7), expected (64, 1, 7, 7)" in str(raised.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: create_model(d=8).encoder, "more than tensors.*could run code"),
        (lambda: {"state_dict": tiny_state(), "epoch": 3}, "not a state dict.*'state_dict', 'epoch'"),
        (lambda: {**tiny_state(), "epoch": 3}, "not a state dict"),
        (lambda: {5: torch.zeros(1)}, "not a state dict"),
        (lambda: torch.zeros(3), "not a state dict.*Tensor"),
        (lambda: [torch.zeros(3)], "not a state dict.*list"),
        (lambda: None, "not a state dict.*None"),
        (dict, "no BYOL-S encoder.*0 tensors"),
        (lambda: torch.nn.Linear(3, 4).state_dict(), "no BYOL-S encoder.*2 tensors.*'weight', 'bias'"),
        (
            lambda: {f"encoder.{key}": value for key, value in tiny_state().items()},
            r"no BYOL-S encoder.*'encoder\.features",
        ),
    ],
    ids=["module", "training run", "mixed", "numbered", "tensor", "list", "None", "empty", "linear", "model"],
)
def test_other_archives_are_refused(make: Callable[[], Any], said: str, tmp_path: Path) -> None:
    torch.save(make(), tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match=rf"foreign\.pth.*{said}"):
        load_model(tmp_path / "foreign.pth")


def test_the_old_format_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save(tiny_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch\.save of 1\.6 or newer"):
        load_model(tmp_path / "old.pth")


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_the_old_format_behind_a_zip_is_refused(tmp_path: Path) -> None:
    """Whoever finds the zip directory at the end would hand the pickle at the beginning to torch."""
    path = tmp_path / "two-faced.pth"
    torch.save(tiny_state(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + zipped({"a": b"b"}))
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match="neither"):
        load_model(path)


FOREIGN = {
    "a zip": zipped({"readme.txt": b"hello"}),
    "an empty pickle": zipped({"w/data.pkl": b""}),
    "TorchScript": zipped({"w/data.pkl": b"\x80\x02}q\x00.", "w/constants.pkl": b"\x80\x02)."}),
    "an empty zip": zipped({}),
    "a zip without a directory": b"PK\x03\x04" + b"\0" * 100,
    "safetensors without tensors": struct.pack("<Q", 2) + b"{}",
    "a blank header": struct.pack("<Q", 20) + b"{" + b" " * 18 + b"}",
    "a header of brackets": struct.pack("<Q", 100) + b"{" + b"[" * 99,
    "sound": b"RIFF\x24\0\0\0WAVEfmt ",
    "zeros": b"\0" * 100,
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "a web page": b"<!DOCTYPE html><title>404</title>",
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["foreign.pth", "foreign.safetensors"])
def test_other_files_are_refused(name: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FOREIGN[what])
    with pytest.raises(CheckpointError, match=name):
        load_model(tmp_path / name)


def test_torchscript_is_named_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "script.pth").write_bytes(FOREIGN["TorchScript"])
    with pytest.raises(CheckpointError, match="TorchScript archive, which holds code"):
        load_model(tmp_path / "script.pth")


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


def archive_of(value: object, **arguments: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **arguments)
    return file.getvalue()


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
@pytest.mark.parametrize(
    "envelope",
    [
        pickle.dumps,
        archive_of,
        lambda evil: archive_of({**tiny_state(), "fc.3.bias": evil}),
        lambda evil: archive_of({**tiny_state(), evil: torch.zeros(1)}),
        lambda evil: archive_of(evil, _use_new_zipfile_serialization=False),
        lambda evil: archive_of(evil, _use_new_zipfile_serialization=False) + zipped({"a": b"b"}),
        lambda evil: pickle.dumps(evil) + zipped({"a": b"b"}),
        lambda evil: zipped({"w/data.pkl": pickle.dumps(evil, 2), "w/version": b"3"}),
        lambda evil: zipped({"w/data.pkl": pickle.dumps(evil, 2), "w/constants.pkl": b"."}),
    ],
    ids=[
        "pickle",
        "archive",
        "value",
        "key",
        "old",
        "old and zip",
        "pickle and zip",
        "by hand",
        "torchscript",
    ],
)
def test_a_pickle_that_would_run_code_runs_nothing(
    envelope: Callable[[object], bytes], name: str, tmp_path: Path
) -> None:
    marker = tmp_path / "it ran"
    path = tmp_path / name
    path.write_bytes(envelope(RunsCode(marker)))
    assert marker.name.encode() in path.read_bytes()
    with pytest.raises(CheckpointError, match=name):
        load_model(path)
    assert not marker.exists()


def test_the_code_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(RunsCode(tmp_path / "it ran")))
    assert (tmp_path / "it ran").exists()


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

"""The trainer's frame: settings, checkpoints, seeds, weights files."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from lunarray.engine.training import Checkpoint, TrainSettings, mixed_seed, seeded
from lunarray.engine.weights import (
    WeightsFormat,
    peek_header,
    read_tensors,
    tensors_digest,
    write_tensors,
)
from lunarray.errors import InputError, ModelError, StoreConflictError, StoreFormatError


@dataclass(frozen=True, kw_only=True)
class Own(TrainSettings):
    """Settings as a room has them."""

    batch_size: int | None = None
    channels: tuple[int, ...] = (32, 64)
    cache: int = 5
    kind: str = "a"

    former: ClassVar = {"rate": "learning_rate"}
    without_effect: ClassVar = ("cache",)

    def faults(self):
        return [*super().faults(), *(["kind"] if self.kind not in "ab" else [])]


def test_settings_are_the_papers_and_another_seed_changes_the_seed_alone():
    assert Own() == Own.paper()
    assert replace(Own(), seed=4) == Own.paper(seed=4)


def test_settings_through_json_and_pickle():
    settings = Own(epochs=np.int64(3), learning_rate=np.float32(0.5), channels=(1, 2, 3))
    assert Own.from_json(settings.to_json()) == settings
    assert Own.from_dict(settings.to_dict()) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert json.loads(settings.to_json()).keys() == settings.to_dict().keys() - {"cache"}
    assert replace(settings, cache=1).to_json() == settings.to_json()


def test_former_names_in_files_and_unknown_ones():
    assert Own.from_dict({"rate": 0.25}).learning_rate == 0.25
    with pytest.raises(InputError, match=r"unknown settings lr.*learning_rate"):
        Own.from_dict({"lr": 0.25})


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"seed": -1},
        {"batch_size": 0},
        {"kind": "c"},
    ],
)
def test_settings_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=f"make no sense: {name}="):
        Own(**wrong)


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path):
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.ones(4, 3)).sum().backward()
    optimiser.step()
    checkpoint = Checkpoint(tmp_path / "new" / "run.resume", {"settings": Own().to_dict()})
    assert checkpoint.load() is None
    checkpoint.save(
        {
            "epoch": 3,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "best": None,
            "history": [0.1, float("nan"), {"F1": np.float64(0.5)}],
            "field": np.arange(6, dtype=np.int16).reshape(2, 3).T,
            "none": {},
        }
    )
    state = checkpoint.load()
    assert (state["epoch"], state["best"], state["none"]) == (3, None, {})
    assert state["history"][0] == 0.1
    assert np.isnan(state["history"][1])
    assert state["history"][2] == {"F1": 0.5}
    np.testing.assert_array_equal(state["field"], np.arange(6).reshape(2, 3).T)
    assert state["field"].dtype == np.int16
    assert state["field"].flags.writeable
    other = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    other.load_state_dict(state["network"])
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        assert value.ndim == state["network"][name].ndim
    again = torch.optim.Adam(other.parameters(), lr=0.3)
    again.load_state_dict(state["optimiser"])
    for before, after in zip(network.parameters(), other.parameters(), strict=True):
        before.grad = after.grad = torch.ones_like(before)
    optimiser.step(), again.step()
    for before, after in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(before, after)
    checkpoint.remove()
    assert list((tmp_path / "new").iterdir()) == []
    checkpoint.remove()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "run.resume"
    stamp = {"settings": Own().to_dict(), "data": "ab"}
    Checkpoint(path, stamp).save({"epoch": 1})
    more = {"settings": Own(epochs=200).to_dict(), "data": "ab"}
    with pytest.raises(StoreConflictError, match=r"another training: other settings\.epochs\."):
        Checkpoint(path, more).load()
    assert Checkpoint(path, more, free=("settings.epochs",)).load() == {"epoch": 1}
    with pytest.raises(StoreConflictError, match="other data"):
        Checkpoint(path, {**stamp, "data": "cd"}).load()


@pytest.mark.parametrize("content", [b"", b"no such thing", "half"])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "run.resume"
    Checkpoint(path, {}).save({"field": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:-50] if content == "half" else content)
    with pytest.raises(StoreFormatError, match=r"run\.resume: a broken checkpoint.*Delete it"):
        Checkpoint(path, {}).load()


def test_seeds():
    import torch

    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(7):
        one = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded(7):
        assert torch.equal(torch.rand(2), one)
    assert mixed_seed(1, 2) == mixed_seed(1, 2) != mixed_seed(2, 1)
    assert 0 <= mixed_seed(1, 2) < 2**63


TABLE = WeightsFormat("tests.table", "write it", versions=(2, 1), required=("bands",))


def test_weights_files_say_what_they_are(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"w": np.arange(6.0).reshape(2, 3).T, "count": np.array(3)}
    assert TABLE.write(path, tensors, {"bands": 3}) == path
    header, read = TABLE.read(path)
    assert len(header["header_digest"]) == 64
    assert {name: told for name, told in header.items() if name != "header_digest"} == {
        "format": "tests.table",
        "format_version": 2,
        "bands": 3,
        "digest": tensors_digest(tensors),
    }
    assert read["count"].shape == ()
    assert peek_header(path) == header
    np.testing.assert_array_equal(read["w"], tensors["w"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "not a safetensors file of tests.table"),
        ({"format": "other", "format_version": 2, "bands": 1}, "holds other version 2"),
        ({"format": "tests.table", "format_version": 3, "bands": 1}, "version 3, not tests.table version 2 or 1"),
        ({"format": "tests.table", "format_version": 1}, "lacks bands"),
        ({"format": "tests.table", "format_version": 1, "bands": 1, "digest": "0"}, "SHA-256 differs"),
    ],
)  # fmt: skip
def test_weights_files_of_another_kind_or_altered(tmp_path, header, message):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": np.zeros(3)}, header)
    with pytest.raises(ModelError, match=message):
        TABLE.read(path)
    assert read_tensors(path)["w"].shape == (3,)


def test_a_header_that_was_changed(tmp_path):
    path = tmp_path / "a.safetensors"
    TABLE.write(path, {"w": np.zeros(3)}, {"bands": [500.0, 600.0]})
    path.write_bytes(path.read_bytes().replace(b"600.0", b"610.0"))
    for read in (TABLE.read_header, TABLE.read):
        with pytest.raises(ModelError, match="the header is not the one that was written"):
            read(path)


def test_no_weights_file(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors: the weights cannot be read"):
        TABLE.read(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("text")
    assert peek_header(tmp_path / "text") is None
    with pytest.raises(ModelError, match="broken safetensors"):
        read_tensors(tmp_path / "text")


def test_both_ways_of_counting_scalars_in_a_digest_are_known(tmp_path):
    import hashlib

    path = tmp_path / "a.safetensors"
    count = np.array(3, np.int64)
    former = hashlib.sha256(b"count:<i8:();" + count.tobytes()).hexdigest()
    TABLE.write(path, {"count": count}, {"bands": 3, "digest": former})
    assert TABLE.read(path)[0]["digest"] == former

"""Gradient space files that may be anything."""

import json
import struct

import pytest
import torch
from fuzzing import HOSTILE, VALUES, attempt, changed, damaged, fuzzed, listing, other_tensors, unsealed
from hypothesis import given
from hypothesis import strategies as st

from gorp.report.space import describe_space, space_grid
from gorp.report.tables import to_csv, to_latex, to_markdown
from gorp.space import GradientSpace, LayerSpace, Side


def a_space():
    space = GradientSpace(0.75, "t5-tiny")
    space.tasks = ["one", "two"]
    basis = torch.eye(6)[:, :2]
    shared = Side(basis.clone(), torch.ones(2))
    space.layers["layer.q"] = LayerSpace(shared, Side(torch.eye(4)[:, :1], torch.ones(1)), growth=[1, 1])
    space.layers["layer.k"] = LayerSpace(shared, growth=[1, 1])
    space.layers["layer.wi"] = LayerSpace(Side(torch.eye(5)[:, :3], torch.ones(3)), frozen=True, growth=[3, 0])
    return space


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("spaces")


@pytest.fixture(scope="module")
def valid(home):
    a_space().save(home / "valid.safetensors")
    return (home / "valid.safetensors").read_bytes()


@st.composite
def files(draw, valid):
    """Bytes damaged anywhere, a header changed key by key, metadata or tensors of other kinds."""
    valid = draw(st.sampled_from([unsealed(valid), unsealed(valid), unsealed(valid), valid]))
    length = struct.unpack("<Q", valid[:8])[0]
    header, body = json.loads(valid[8 : 8 + length]), valid[8 + length :]
    how = draw(st.sampled_from(["bytes", "header", "metadata", "metadata", "tensors", "tensors"]))
    if how == "bytes":
        return draw(damaged(valid))
    if how == "tensors":
        return draw(other_tensors(valid))
    if how == "header":
        header = draw(changed(header))
    else:
        told = {key: _plain(value) for key, value in header["__metadata__"].items()}
        told = draw(changed(told, most=1))
        told = told if isinstance(told, dict) else {"tasks": told}
        text = st.one_of(HOSTILE, VALUES.map(json.dumps))
        header["__metadata__"] = {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()
        }
        if draw(st.booleans()):
            header["__metadata__"][draw(st.sampled_from(["max_share", "growth", "frozen", "shared"]))] = draw(text)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + body


def _plain(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@fuzzed(0.2, few=100)
@given(data=st.data())
def test_space_files(home, valid, data):
    file, run = home / "space.safetensors", home / "run"
    run.mkdir(exist_ok=True)
    file.write_bytes(data.draw(files(valid)))
    before = listing(home, without=run)

    def read():
        space = GradientSpace.load(file)
        grid = space_grid(space)
        for write in (to_csv, to_latex, to_markdown):
            write(grid).encode()
        "\n".join(describe_space(space, 1)).encode()
        for name, layer in space.layers.items():
            assert torch.isfinite(space.project(name, torch.ones(2, layer.input.width))).all()
            assert 0 <= space.capacity(name) <= 1
        space.save(run / "again.safetensors")
        assert GradientSpace.load(run / "again.safetensors").tasks == space.tasks

    attempt(read, run, file.name)
    assert listing(home, without=run) == before

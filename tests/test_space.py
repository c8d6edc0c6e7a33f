import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gorp._linalg import orthonormalize, seeded_normal
from gorp.errors import InputError
from gorp.space import GradientSpace, LayerSpace, Side


def space_of(width: int = 12, rank: int = 3, output_width: int = 8) -> GradientSpace:
    space = GradientSpace(max_share=0.5, base_model="some/model")
    basis = orthonormalize(seeded_normal(width, rank, 1))
    output = Side(orthonormalize(seeded_normal(output_width, 1, 2)), torch.tensor([0.7]))
    space.layers["block.0.q"] = LayerSpace(Side(basis, torch.tensor([0.5, 0.3, 0.1])), output, growth=[3])
    space.layers["block.0.gate"] = LayerSpace(Side.empty(width), growth=[0], frozen=True)
    space.tasks = ["first"]
    return space


def test_a_saved_space_comes_back_as_it_was(tmp_path) -> None:
    space = space_of()
    space.save(tmp_path / "space.safetensors")
    again = GradientSpace.load(tmp_path / "space.safetensors")
    assert (again.tasks, again.max_share, again.base_model) == (["first"], 0.5, "some/model")
    assert list(again.layers) == list(space.layers)
    for name, layer in space.layers.items():
        other = again.layers[name]
        assert other.basis.equal(layer.basis)
        assert other.energy.equal(layer.energy)
        assert (other.frozen, other.growth) == (layer.frozen, layer.growth)
        assert (other.output is None) == (layer.output is None)
    assert [path.name for path in tmp_path.iterdir()] == ["space.safetensors"], "no unfinished file is left behind"


def test_a_shared_side_is_written_once_and_comes_back_shared(tmp_path) -> None:
    space = space_of()
    space.layers["block.0.v"] = LayerSpace(space.layers["block.0.q"].input, growth=[0])
    space.save(tmp_path / "space.safetensors")
    assert "block.0.v.basis" not in load_file(tmp_path / "space.safetensors")
    again = GradientSpace.load(tmp_path / "space.safetensors")
    assert again.layers["block.0.v"].input is again.layers["block.0.q"].input
    assert again.layers["block.0.v"].basis.equal(space.layers["block.0.q"].basis)
    assert [side.rank for side in again.input_sides] == [3, 0]


def test_a_side_shared_with_nobody_is_refused(tmp_path) -> None:
    path = tmp_path / "space.safetensors"
    space_of().save(path)
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "shared": '{"block.0.gate": "nobody"}'}
    del metadata["checksum"]
    save_file(load_file(path), path, metadata)
    with pytest.raises(InputError, match=r"space.safetensors: block.0.gate shares the space of 'nobody', which"):
        GradientSpace.load(path)


def test_extending_keeps_the_basis_orthonormal_and_counts_columns() -> None:
    space = space_of(width=40)
    rows = seeded_normal(4, 40, 5)
    added = space.extend("block.0.q", rows, 0.9, seeded_normal(1, 8, 6))
    layer = space.layers["block.0.q"]
    assert added == layer.growth[-1] == layer.basis.shape[1] - 3
    torch.testing.assert_close(layer.basis.T @ layer.basis, torch.eye(layer.basis.shape[1]), atol=1e-6, rtol=0)
    assert space.project("block.0.q", rows).square().sum() <= 0.1001 * rows.square().sum()
    assert layer.output is not None
    assert layer.output.rank == 2


def test_capacity_is_what_the_fuller_side_has_left() -> None:
    space = space_of()
    assert space.capacity("block.0.q") == pytest.approx(min(1 - 3 / 6, 1 - 1 / 4))
    assert space.capacity("block.0.gate") == 0.0


def test_a_side_at_its_cap_refuses_and_freezes() -> None:
    space = space_of()
    assert space.extend("block.0.q", seeded_normal(5, 12, 3), 0.999) == 0
    layer = space.layers["block.0.q"]
    assert layer.frozen
    assert layer.basis.shape[1] == 3


@pytest.mark.parametrize("rows", [torch.full((4, 12), float("nan")), torch.zeros(4, 12), torch.zeros(0, 12)])
def test_rows_that_say_nothing_add_nothing(rows: torch.Tensor) -> None:
    space = space_of()
    assert space.extend("block.0.q", rows, 0.95) == 0
    assert torch.isfinite(space.layers["block.0.q"].basis).all()


def test_files_that_are_no_space_are_refused(tmp_path) -> None:
    path = tmp_path / "space.safetensors"
    with pytest.raises(InputError, match=r"space\.safetensors: no such file"):
        GradientSpace.load(path)
    space_of().save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        GradientSpace.load(path)
    save_file({"a": torch.zeros(2)}, path, {"format_version": "99"})
    with pytest.raises(InputError, match="format_version is '99'; this gorp reads '1'"):
        GradientSpace.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_share": "nan"}, "metadata, key 'max_share'"),
        ({"tasks": "{}"}, "metadata, key 'tasks'"),
        ({"growth": '{"block.0.q": ["a"]}'}, r"metadata, key 'growth.block.0.q.0'"),
        ({"frozen": "["}, "metadata, key 'frozen': Invalid JSON"),
        ({"block.0.q.basis": torch.full((12, 3), float("nan"))}, "block.0.q.basis holds what is no finite number"),
        ({"block.0.q.energy": torch.ones(3, dtype=torch.int64)}, "block.0.q.energy holds what is no finite number"),
        ({"block.0.q.basis": torch.full((12, 3), 1e30)}, "block.0.q.basis has a column that is not of length 1"),
        ({"block.0.q.basis": torch.zeros(2, 3)}, r"block.0.q.basis \(2, 3\) needs one energy a column"),
    ],
)
def test_a_damaged_space_is_refused(tmp_path, change, said) -> None:
    path = tmp_path / "space.safetensors"
    space_of().save(path)
    with safe_open(path, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != "checksum"}
    tensors = {**load_file(path), **{name: value for name, value in change.items() if isinstance(value, torch.Tensor)}}
    save_file(tensors, path, {**metadata, **{name: value for name, value in change.items() if isinstance(value, str)}})
    with pytest.raises(InputError, match=rf"space\.safetensors: {said}"):
        GradientSpace.load(path)


def test_max_share_has_bounds() -> None:
    with pytest.raises(ValueError, match="max_share"):
        GradientSpace(max_share=0)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path) -> None:
    path = tmp_path / "space.safetensors"
    space_of().save(path)
    whole = path.read_bytes()
    for byte in range(len(whole)):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1 << byte % 8]) + whole[byte + 1 :])
        with pytest.raises(InputError, match=r"space\.safetensors: "):
            GradientSpace.load(path)


def test_a_file_of_an_earlier_version_has_no_checksum(tmp_path) -> None:
    path = tmp_path / "space.safetensors"
    space_of().save(path)
    with safe_open(path, "pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key not in ("checksum", "shared")}
    save_file(load_file(path), path, metadata)
    assert GradientSpace.load(path).tasks == ["first"]

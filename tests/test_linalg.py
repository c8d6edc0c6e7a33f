import pytest
import torch

from gorp._linalg import (
    align,
    dominant_subspace,
    energy_rank,
    extend_basis,
    orthonormalize,
    project_out,
    rotation,
    seeded_normal,
)

SHAPES = {"wide": (24, 64), "tall": (64, 24), "square": (40, 40), "batched": (3, 32, 48)}


def basis_of(width: int, rank: int, seed: int = 7) -> torch.Tensor:
    return orthonormalize(seeded_normal(width, rank, seed, torch.float64))


def decaying(shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u * (0.8 ** torch.arange(sigma.shape[-1])) @ vh


def test_project_out_leaves_nothing_of_the_basis_and_all_of_the_rest() -> None:
    basis = basis_of(20, 6)
    rows = seeded_normal(5, 20, 3, torch.float64)
    free = project_out(rows, basis)
    assert (free @ basis).norm() < 1e-13
    torch.testing.assert_close(free + rows @ basis @ basis.T, rows)
    assert project_out(rows, basis[:, :0]).equal(rows)


def test_orthonormalize_keeps_what_is_orthonormal() -> None:
    basis = -basis_of(30, 5)
    torch.testing.assert_close(orthonormalize(basis), basis)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_dominant_subspace_catches_the_energy_of_the_exact_one(shape: tuple[int, ...]) -> None:
    matrix = decaying(shape)
    start = torch.stack([seeded_normal(shape[-1], 24, i, torch.float64) for i in range(3)])
    start = start if len(shape) == 3 else start[0]
    u, v, rows, block = dominant_subspace(matrix, start, 8)
    exact = torch.linalg.svdvals(matrix)[..., :8].square().sum()
    assert (u.mT @ matrix @ v).square().sum() >= 0.999 * exact
    eye = torch.eye(8, dtype=torch.float64).expand((*u.shape[:-2], 8, 8))
    torch.testing.assert_close(u.mT @ u, eye)
    torch.testing.assert_close(v.mT @ v, eye)
    assert block.shape == (*shape[:-2], shape[-1], 24)
    torch.testing.assert_close(rows, u.mT @ matrix)


def test_warm_starts_make_up_for_fewer_rounds() -> None:
    matrix = seeded_normal(96, 96, 5, torch.float64)  # flat spectrum: the hard case
    block = seeded_normal(96, 24, 6, torch.float64)
    exact = torch.linalg.svdvals(matrix)[:8].square().sum()
    caught = []
    for _ in range(6):
        u, v, _, block = dominant_subspace(matrix, block, 8)
        caught.append(float((u.T @ matrix @ v).square().sum() / exact))
    assert caught[0] < caught[-1]
    assert caught[-1] > 0.97


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_dominant_subspace_of_a_rank_deficient_matrix_is_orthonormal(rank: int) -> None:
    matrix = seeded_normal(30, rank, 1) @ seeded_normal(rank, 20, 2)
    u, v, *_ = dominant_subspace(matrix, seeded_normal(20, 20, 3), 8)
    torch.testing.assert_close(u.T @ u, torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(v.T @ v, torch.eye(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize("held", [0, 5], ids=["free", "off a basis"])
def test_what_a_matrix_does_not_determine_is_not_left_to_round_off(held: int) -> None:
    exact = seeded_normal(30, 3, 1) @ seeded_normal(3, 20, 2)
    basis, start = basis_of(20, held).float(), seeded_normal(20, 20, 3)
    first, second = (
        dominant_subspace(exact * (1 + 1e-7 * seeded_normal(30, 20, seed)), start, 8, basis) for seed in (4, 5)
    )
    for name in ("u", "v", "rows"):
        one, other = getattr(first, name), getattr(second, name)
        torch.testing.assert_close(one, other, atol=1e-5 * float(one.abs().max()), rtol=0)
    assert float(first.rows[3:].abs().max()) == 0


@pytest.mark.parametrize("known", [0, 1, 3])
@pytest.mark.parametrize("axes", [range(8), range(2, 14)])
def test_what_is_not_determined_stays_off_a_basis_of_axes_too(known: int, axes: range) -> None:
    """QR completes with axes, which may be those of the basis, whose projection is then nothing again."""
    basis = torch.eye(20)[:, list(axes)]
    matrix = seeded_normal(30, known, 1) @ seeded_normal(known, 20, 2)
    u, v, *_ = dominant_subspace(matrix, seeded_normal(20, 20, 3), 6, basis)
    for side in (u, v):
        torch.testing.assert_close(side.T @ side, torch.eye(6), atol=1e-5, rtol=0)
    assert float((v.T @ basis).abs().max()) < 1e-6


def test_align_undoes_a_rotation_within_the_span() -> None:
    old = basis_of(40, 8)
    turned = old @ rotation(8, 3, torch.float64)
    torch.testing.assert_close(align(turned, old), old)


def test_rotations_are_orthogonal_and_fixed_by_their_seed() -> None:
    torch.testing.assert_close(rotation(6, 1).T @ rotation(6, 1), torch.eye(6))
    assert rotation(6, 1).equal(rotation(6, 1))
    assert not rotation(6, 1).equal(rotation(6, 2))


@pytest.mark.parametrize(
    ("target", "held", "expected"),
    [(0.9, 0.0, 2), (0.5, 0.0, 1), (0.51, 0.0, 2), (1.0, 0.0, 3), (0.4, 0.5, 0), (0.9, 0.5, 1), (2.0, 0.0, 3)],
)
def test_energy_rank_is_the_fewest_that_reach_the_target(target: float, held: float, expected: int) -> None:
    assert energy_rank(torch.tensor([0.5, 0.4, 0.1], dtype=torch.float64), target, held) == expected


def test_extend_basis_holds_the_share_with_the_fewest_columns() -> None:
    rows = decaying((50, 40))
    basis = basis_of(40, 5)
    columns, energies = extend_basis(basis, rows, 0.95)
    grown = torch.cat([basis, columns], dim=1)
    torch.testing.assert_close(grown.T @ grown, torch.eye(grown.shape[1], dtype=torch.float64))
    total = rows.square().sum()
    assert (rows @ grown).square().sum() >= 0.95 * total
    assert (rows @ grown[:, :-1]).square().sum() < 0.95 * total
    torch.testing.assert_close(energies, (rows @ columns).square().sum(0) / total)


def test_a_task_seen_again_adds_no_column() -> None:
    rows = decaying((50, 40))
    columns, _ = extend_basis(torch.zeros(40, 0, dtype=torch.float64), rows, 0.95)
    again, energies = extend_basis(columns, rows, 0.95)
    assert again.shape == (40, 0)
    assert energies.shape == (0,)


def test_rule_on_the_remainder_goes_on_where_the_rule_on_the_total_stops() -> None:
    rows = decaying((50, 40))
    columns, _ = extend_basis(torch.zeros(40, 0, dtype=torch.float64), rows, 0.95)
    again, _ = extend_basis(columns, rows, 0.95, of_remainder=True)
    assert again.shape[1] > 0


def test_nothing_grows_from_nothing_or_beyond_the_width() -> None:
    assert extend_basis(torch.zeros(8, 0), torch.zeros(5, 8), 0.95)[0].shape == (8, 0)
    assert extend_basis(torch.zeros(8, 0), torch.zeros(0, 8), 0.95)[0].shape == (8, 0)
    assert extend_basis(torch.zeros(8, 0), seeded_normal(5, 8, 1), 0.0)[0].shape == (8, 0)
    full = torch.eye(8)
    assert extend_basis(full, seeded_normal(5, 8, 1), 1.0)[0].shape == (8, 0)

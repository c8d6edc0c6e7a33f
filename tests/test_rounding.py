import torch
from torch import nn

from gorp._rounding import REMAINDER, ROWS_AT_A_TIME, join, split
from gorp._weights import add_product, keep_remainder, read_weight


def test_split_and_join_are_exact_for_every_kind_of_number() -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), generator=torch.Generator().manual_seed(0))
    exact = bits.to(torch.int32).view(torch.float32)
    exact = exact[torch.isfinite(exact) & (exact.abs() < 3e38)]
    ties = torch.tensor([0x3F808000, 0x3F818000, 0x3F807FFF, 0x00000000]).to(torch.int32).view(torch.float32)
    exact = torch.cat([exact, ties, -ties])
    rounded, remainder = split(exact)
    assert join(rounded, remainder).view(torch.int32).equal(exact.view(torch.int32))
    normal = exact.abs() > 1e-37
    assert ((rounded.float() - exact).abs() <= exact.abs() * 2**-8)[normal].all()


def test_many_small_merges_add_up_in_bf16_as_in_fp32() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8, bias=False).to(torch.bfloat16)
    keep_remainder(layer)
    start = read_weight(layer).clone()
    small = start.abs().mean() * 1e-4
    plain = layer.weight.detach().clone()
    for _ in range(1000):
        add_product(layer, torch.ones(8, 1), small.expand(1, 16))
        plain += small
    moved = read_weight(layer) - start
    torch.testing.assert_close(moved, torch.full_like(moved, 1000 * small), rtol=1e-3, atol=0)
    assert not torch.allclose(plain.float() - start, moved, rtol=0.1), "bf16 alone would have lost the steps"
    assert REMAINDER in dict(layer.named_buffers())


def test_wider_weights_need_no_remainder() -> None:
    layer = nn.Linear(4, 4)
    keep_remainder(layer)
    assert not list(layer.buffers())
    before = layer.weight.detach().clone()
    add_product(layer, torch.ones(4, 2), torch.ones(2, 4))
    torch.testing.assert_close(layer.weight, before + 2)


def test_a_product_is_added_in_parts_as_a_whole() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, ROWS_AT_A_TIME + 40, bias=False).to(torch.bfloat16)
    keep_remainder(layer)
    left, right = torch.randn(ROWS_AT_A_TIME + 40, 3), torch.randn(3, 24)
    before = read_weight(layer).clone()
    add_product(layer, left, right)
    torch.testing.assert_close(read_weight(layer), before + left @ right)


def test_without_a_remainder_a_merge_is_rounded() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8, bias=False).to(torch.bfloat16)
    left, right = torch.randn(8, 2), torch.randn(2, 16)
    exact = read_weight(layer) + left @ right
    add_product(layer, left, right)
    assert layer.weight.equal(exact.to(torch.bfloat16))
    assert read_weight(layer).equal(layer.weight.float())

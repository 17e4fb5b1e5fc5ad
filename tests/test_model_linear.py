"""Products from packed weights: near the plain ones, only where asked for, never of old weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medic_ad.load import load_model
from medic_ad.model.linear import PackedLinear, pack_linears, packed

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="this build of torch has no oneDNN; those for x86 have",
)


def layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(48, 40, bias=bias)).requires_grad_(False)
    pack_linears(one)
    assert type(one[0]) is PackedLinear
    return one[0]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_packed_product_is_that_of_float64(bias: bool) -> None:
    one, x = layer(bias), torch.randn(3, 7, 48)
    exact = x.double() @ one.weight.double().T + (one.bias.double() if bias else 0)
    with torch.inference_mode(), packed():
        assert (one(x).double() - exact).abs().max() < 1e-5
        assert one._blocks is not None  # it was the packed product


def test_outside_the_block_it_is_the_plain_layer() -> None:
    one, x = layer(), torch.randn(5, 48)
    with packed():
        one(x)
    assert torch.equal(one(x), nn.functional.linear(x, one.weight, one.bias))


def test_other_precisions_take_the_plain_product() -> None:
    one, x = layer().to(torch.bfloat16), torch.randn(5, 48, dtype=torch.bfloat16)
    with packed():
        assert torch.equal(one(x), nn.functional.linear(x, one.weight, one.bias))


def test_changed_loaded_and_copied_weights_are_packed_anew() -> None:
    one, x = layer(), torch.randn(5, 48)

    def said(of: nn.Linear) -> torch.Tensor:
        with torch.inference_mode(), packed():
            return of(x)

    before = said(one)
    twin = copy.deepcopy(one)
    assert "_blocks" not in twin.__dict__ and torch.equal(said(twin), before)
    one.weight.mul_(2)
    assert torch.allclose(said(one) - one.bias, 2 * (before - one.bias), atol=1e-5)
    one.load_state_dict({"weight": torch.zeros(40, 48), "bias": torch.ones(40)})
    assert torch.equal(said(one), torch.ones(5, 40))
    assert torch.equal(said(twin), before)


def test_weights_converted_and_back_are_packed_anew() -> None:
    """Their address and version are often those of the old ones: `.to` counts no change."""
    x, stale = torch.randn(5, 48), 0
    for _ in range(20):
        one = layer()
        with torch.inference_mode(), packed():
            one(x)
        one.to(torch.bfloat16).to(torch.float32)
        with torch.inference_mode(), packed():
            stale += not torch.allclose(one(x), nn.functional.linear(x, one.weight, one.bias))
    assert stale == 0


def test_weights_exchanged_by_hand_are_packed_anew() -> None:
    x, stale = torch.randn(5, 48), 0
    for scale in range(2, 22):
        one = layer()
        with torch.inference_mode(), packed():
            one(x)
        one.weight.data = one.weight.data.bfloat16()
        one.weight.data = one.weight.data.float().mul_(scale)
        with torch.inference_mode(), packed():
            said = one(x)
        stale += not torch.allclose(said, nn.functional.linear(x, one.weight, one.bias), atol=1e-4)
    assert stale == 0


def test_under_autocast_it_is_the_plain_layer() -> None:
    one, x = layer(), torch.randn(5, 48)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = nn.functional.linear(x, one.weight, one.bias)
        with packed():
            said = one(x)
    assert said.dtype == torch.bfloat16 and torch.equal(said, plain)


def test_a_layer_built_under_inference_mode_is_the_plain_one() -> None:
    with torch.inference_mode():
        one, x = layer(), torch.randn(5, 48)
        with packed():
            assert torch.equal(one(x), nn.functional.linear(x, one.weight, one.bias))


def test_the_tower_of_nano_is_the_stock_one_within_a_hundred_thousandth() -> None:
    tower = load_model("nano", "cpu").network.model.visual
    patches, grid = torch.randn(512, 144), torch.tensor([[1, 16, 16]] * 2)
    with torch.inference_mode():
        plain = tower(patches, grid).pooler_output
        with packed():
            quick = tower(patches, grid).pooler_output
    assert plain.std() > 0.1 and (quick - plain).abs().max() <= 1e-5

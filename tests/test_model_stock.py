"""No forgetting: without stage tokens the logits are the stock class's, bit for bit."""

from __future__ import annotations

import pytest
import tiny
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from medic_ad.errors import ModelError
from medic_ad.load import load_model
from medic_ad.model import attention
from medic_ad.model.modeling import HEADS, MedicADForConditionalGeneration

# windows are 4 x 4 patches; those of one length are computed in one batch
GRIDS: dict[str, list[tuple[int, int]]] = {
    "no image": [],
    "one window": [(4, 4)],
    "equal windows": [(8, 8)],
    "equal windows, wide": [(4, 16)],
    "unequal windows": [(6, 10)],
    "smaller than a window": [(2, 2)],
    "two alike": [(8, 8), (8, 8)],
    "two that differ, windows equal": [(8, 8), (4, 12)],
    "three that differ": [(6, 6), (8, 4), (2, 10)],
}
GROUPED = {  # one call a length in each of the 4 blocks, 2 of which attend to whole images
    "no image": 0,
    "one window": 4,
    "equal windows": 4,
    "equal windows, wide": 4,
    "unequal windows": 8,  # of 16, 8 and 4 patches
    "smaller than a window": 4,
    "two alike": 4,
    "two that differ, windows equal": 6,
    "three that differ": 12,
}


def twins(
    implementation: str, dtype: torch.dtype = torch.float32
) -> tuple[MedicADForConditionalGeneration, Qwen2_5_VLForConditionalGeneration]:
    """Our class and the stock class with the same backbone weights and attention."""
    ours = tiny.network(seed=3)
    tiny.shake(ours.model, 5, 0.05)
    values = {k: v for k, v in ours.config.to_dict().items() if k != "model_type"}
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values)).eval()
    backbone = {k: v for k, v in ours.state_dict().items() if k.split(".")[0] not in HEADS}
    stock.load_state_dict(backbone)
    for one in (ours, stock):
        one.set_attn_implementation(implementation)
        one.to(dtype)
        assert one.model.visual.config._attn_implementation == implementation
    assert type(stock.model.visual.blocks[0].attn) is not type(ours.model.visual.blocks[0].attn)
    return ours, stock


def inputs_of(config, grids: list[tuple[int, int]], seed: int = 0) -> dict[str, torch.Tensor]:
    images = tiny.packed(grids, config.vision_config, seed) if grids else {}
    return {**tiny.prompt(config, grids, seed=seed), **images}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_logits_equal_the_stock_class_bit_for_bit(
    implementation: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, stock = twins(implementation, dtype)
    calls: list[torch.Tensor] = []
    name = "scaled_dot_product_attention"
    monkeypatch.setattr(attention, name, tiny.recorded(getattr(attention, name), calls))
    compared = 0
    for seed, (name, grids) in enumerate(GRIDS.items()):
        inputs = inputs_of(ours.config, grids, seed)
        calls.clear()
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                mine, theirs = ours(**inputs).logits, stock(**inputs).logits
            assert torch.equal(mine, theirs), name
            assert mine.isfinite().all() and mine.std() > 1e-3
            compared += 1
        assert len(calls) == 2 * (GROUPED[name] if implementation == "sdpa" else 0), name
    assert compared == 18


def test_other_windows_than_the_fixture_too() -> None:
    """Windows of 4, 16, 36, 64, 144 and 256 patches, images alike and unlike."""
    compared = 0
    for side in (1, 2, 3, 4, 6, 8):
        torch.manual_seed(side)
        ours = tiny.network(vision={"window_size": side * 16, "fullatt_block_indexes": [3]})
        values = {k: v for k, v in ours.config.to_dict().items() if k != "model_type"}
        stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values)).eval()
        stock.load_state_dict(ours.state_dict(), strict=False)
        for grids in ([(2 * side, 2 * side)] * 3, [(2 * side, 4 * side), (2 * side + 2, 2 * side)]):
            images = tiny.packed(grids, ours.config.vision_config, side)
            with torch.no_grad():
                mine, theirs = (
                    one.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"])
                    for one in (ours, stock)
                )
            assert torch.equal(mine.last_hidden_state, theirs.last_hidden_state)
            assert torch.equal(mine.pooler_output, theirs.pooler_output)
            compared += 1
    assert compared == 12


def test_windows_of_four_lengths_are_four_calls_planned_once_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """640 x 480 pixels of 14 are 34 x 46 patches: 30 windows of 64, 48, 16 and 12 patches."""
    ours = tiny.network(vision={"window_size": 64})
    values = {k: v for k, v in ours.config.to_dict().items() if k != "model_type"}
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values)).eval()
    stock.load_state_dict(ours.state_dict(), strict=False)
    plans: list[attention.Plan] = []
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(attention, "Plan", tiny.recorded(attention.Plan, plans))
    name = "scaled_dot_product_attention"
    monkeypatch.setattr(attention, name, tiny.recorded(getattr(attention, name), calls))
    images = tiny.packed([(34, 46)], ours.config.vision_config)
    with torch.no_grad():
        mine, theirs = (
            one.model.visual(images["pixel_values"], grid_thw=images["image_grid_thw"])
            for one in (ours, stock)
        )
    assert theirs.last_hidden_state.std() > 0.1
    for part in ("last_hidden_state", "pooler_output"):
        assert (mine[part] - theirs[part]).abs().max() <= 1e-5
    windows = {length: count for count, length in plans[0].groups}
    assert windows == {64: 20, 48: 4, 16: 5, 12: 1}
    assert len(plans) == 2 and plans[1].groups == [(1, 34 * 46)]
    assert len(calls) == 2 * (4 + 1)


def test_loss_and_gradients_equal_the_stock_class() -> None:
    ours, stock = twins("sdpa")
    inputs = inputs_of(ours.config, [(8, 8), (8, 8)])
    losses = [one(**inputs, labels=inputs["input_ids"]).loss for one in (ours, stock)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    mine, compared = dict(ours.named_parameters()), 0
    for name, parameter in stock.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(mine[name].grad, parameter.grad, rtol=1e-4, atol=1e-6), name
        compared += 1
    assert compared == len(list(stock.parameters()))
    assert all(p.grad is None for h in HEADS for p in getattr(ours, h).parameters())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_generation_equals_the_stock_class(implementation: str) -> None:
    """But for the two ids of stage tokens, which are no words: ours never says them."""
    ours, stock = twins(implementation)
    never = {stock: {"suppress_tokens": [ours.config.ano_token_id, ours.config.diff_token_id]}}
    for one in (ours, stock):
        one.generation_config.eos_token_id = None
    compared = 0
    for name in ("no image", "equal windows", "two that differ, windows equal"):
        inputs = inputs_of(ours.config, GRIDS[name])
        made = [
            one.generate(
                **inputs,
                max_new_tokens=8,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
                pad_token_id=0,
                **never.get(one, {}),
            )  # fmt: skip
            for one in (ours, stock)
        ]
        assert torch.equal(made[0].sequences, made[1].sequences)
        assert made[0].sequences.shape[1] == inputs["input_ids"].shape[1] + 8
        for mine, theirs in zip(made[0].scores, made[1].scores, strict=True):
            assert torch.equal(mine, theirs)
            compared += 1
    assert compared == 24


def test_padded_batches_equal_the_stock_class_and_each_prompt_alone() -> None:
    ours, stock = twins("sdpa")
    rows = [tiny.prompt(ours.config, [(8, 8)], tail=t, seed=t) for t in (3, 9)]
    longest = rows[1]["input_ids"].shape[1]
    padded = {
        name: torch.cat(
            [torch.nn.functional.pad(r[name], (longest - r[name].shape[1], 0)) for r in rows]
        )
        for name in rows[0]
    }
    images = tiny.packed([(8, 8), (8, 8)], ours.config.vision_config)
    with torch.no_grad():
        both = ours(**padded, **images).logits
        assert torch.equal(both, stock(**padded, **images).logits)
        for k, row in enumerate(rows):
            part = {
                "pixel_values": images["pixel_values"].chunk(2)[k],
                "image_grid_thw": images["image_grid_thw"][k : k + 1],
            }
            alone = ours(**row, **part).logits[0]
            assert torch.allclose(both[k, -len(alone) :], alone, atol=1e-4)


def test_a_read_with_stage_tokens_leaves_nothing_behind() -> None:
    """`rope_deltas` is state on the model: what was read before must not change what comes next."""
    ours, stock = twins("sdpa")
    config = ours.config
    inputs = inputs_of(config, [(8, 8)])
    run = torch.full((1, 16), config.ano_token_id)
    ids = torch.cat([inputs["input_ids"], run, torch.full((1, 1), 30)], 1)
    staged = {
        **inputs,
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }
    with torch.no_grad():
        with_tokens = ours(**staged).logits
        assert torch.equal(ours(**inputs).logits, stock(**inputs).logits)
        plain = stock(**staged).logits
    assert not torch.allclose(with_tokens[:, -1], plain[:, -1], atol=1e-3)  # `<Ano>` is read
    before = inputs["input_ids"].shape[1]
    assert torch.equal(with_tokens[:, :before], plain[:, :before])  # and only from its place on


@pytest.mark.parametrize("name", ["pixel_values", "mm_encoder_outputs"])
def test_images_without_token_types_are_refused(name: str) -> None:
    ours, stock = twins("sdpa")
    inputs = inputs_of(ours.config, [(8, 8)])
    right = stock(**inputs).logits
    del inputs["mm_token_type_ids"]
    assert not torch.allclose(stock(**inputs).logits, right, atol=1e-4)  # the stock class is silent
    if name == "mm_encoder_outputs":
        vision = ours.encode(inputs.pop("pixel_values"), inputs["image_grid_thw"])
        inputs["mm_encoder_outputs"] = {"image": vision.encoder}
    with pytest.raises(ModelError, match="expected mm_token_type_ids with images"):
        ours(**inputs)


def test_one_vision_pass_serves_the_language_model_too() -> None:
    ours, _ = twins("sdpa")
    inputs = inputs_of(ours.config, [(8, 8), (6, 10)])
    with torch.no_grad():
        right = ours(**inputs).logits
        vision = ours.encode(inputs.pop("pixel_values"), inputs["image_grid_thw"])
        again = ours(**inputs, mm_encoder_outputs={"image": vision.encoder}).logits
    assert torch.equal(again, right)


@torch.no_grad()
def test_the_bundled_nano_equals_the_stock_class_too() -> None:
    nano = load_model("nano", "cpu")
    config = nano.config
    values = {k: v for k, v in config.to_dict().items() if k != "model_type"}
    stock = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values)).eval()
    backbone = {k: v for k, v in nano.network.state_dict().items() if k.split(".")[0] not in HEADS}
    stock.load_state_dict(backbone, assign=True)  # the same memory, so the same alignment
    prompt = nano.processor.prompt("Is there an anomaly, and where?", 2, stages=False)
    side, merge = config.image_size, 2 * config.vision_config.patch_size
    inputs = {
        **nano.processor.text([prompt], config, (side // merge) ** 2),
        **nano.processor.images(tiny.canvases(2, side=side), config),
    }
    mine, theirs = nano.network(**inputs).logits, stock(**inputs).logits
    assert torch.equal(mine, theirs) and mine.std() > 0.1

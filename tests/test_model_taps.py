"""The taps trap: what the vision tower permutes inside must come out in raster order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tiny
import torch
from transformers import Qwen2VLImageProcessorPil

from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.model.taps import raster, raster_order, window_order

PATCH, CHANNELS, FRAMES = 4, 3, 2
GRIDS = [(2, 2), (2, 8), (8, 2), (4, 6), (6, 4), (8, 8), (10, 6), (6, 14), (16, 12), (12, 20)]
WINDOWS = (1, 2, 3, 4, 5)  # merge groups along a side; 3 and 5 divide none of the larger grids


def probe(window: int) -> MedicADForConditionalGeneration:
    """A tower whose blocks are the identity and whose patch embedding holds the patch's mean."""
    tower = dict(
        in_channels=CHANNELS,
        temporal_patch_size=FRAMES,
        patch_size=PATCH,
        window_size=window * 2 * PATCH,
    )
    network = tiny.network(vision=tower)
    with torch.no_grad():
        for block in network.model.visual.blocks:
            for layer in (block.attn.proj, block.mlp.down_proj):
                layer.weight.zero_()
                layer.bias.zero_()
        weight = network.model.visual.patch_embed.proj.weight  # (Dv, C, T, p, p)
        weight.zero_()
        weight[:4] = 1 / weight[0].numel()
    return network


def pictures(cells: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """Pictures `(h, w)` of one grey value a patch, packed by transformers' own image processor."""
    images = [np.repeat(np.kron(c, np.ones((PATCH, PATCH)))[..., None], 3, 2) for c in cells]
    own = Qwen2VLImageProcessorPil(
        patch_size=PATCH, temporal_patch_size=FRAMES, merge_size=2, do_resize=False,
        do_rescale=False, do_normalize=False, do_convert_rgb=False,
    )  # fmt: skip
    parts = [own(image.astype(np.float32), return_tensors="pt") for image in images]
    return {
        name: torch.cat([part[name] for part in parts])
        for name in ("pixel_values", "image_grid_thw")
    }


def taps(network: MedicADForConditionalGeneration, cells: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tapped maps `(L, h, w)` of the probe's first channel."""
    with torch.no_grad():
        vision = network.encode(**pictures(cells))
    assert [tuple(i.shape[1:]) for i in vision.images] == [
        (c.shape[0] * PATCH, c.shape[1] * PATCH) for c in cells
    ]
    for cell, image in zip(cells, vision.images, strict=True):
        assert np.allclose(image[0, ::PATCH, ::PATCH], cell, atol=1e-5)
    return [t[:, 0].numpy() for t in vision.taps]


@pytest.mark.parametrize("window", WINDOWS)
def test_one_bright_patch_in_one_bright_cell_out(window: int) -> None:
    network, cases = probe(window), 0
    for h, w in GRIDS[:7]:
        cells = np.eye(h * w).reshape(-1, h, w)  # every place of the grid, packed
        for cell, found in zip(cells, taps(network, list(cells)), strict=True):
            assert found.shape == (2, h, w)
            assert np.allclose(found, cell, atol=1e-6)
            cases += 1
    assert cases == 4 + 16 + 16 + 24 + 24 + 64 + 60


@pytest.mark.parametrize("window", WINDOWS)
def test_every_patch_keeps_its_place_in_packed_batches_of_unlike_sizes(window: int) -> None:
    network, rng, patches, batches = probe(window), np.random.default_rng(window), 0, 0
    for _ in range(4):
        order = rng.permutation(len(GRIDS))
        for part in np.split(order, [1, 4, 7]):
            cells = [rng.permutation(np.prod(GRIDS[i])).reshape(GRIDS[i]) / 64 for i in part]
            for cell, found in zip(cells, taps(network, cells), strict=True):
                assert np.allclose(found, cell, atol=1e-5)
                patches += cell.size
            batches += 1
    assert batches == 16 and patches == 4 * sum(h * w for h, w in GRIDS) == 2896


def test_the_trap_is_real_at_448_pixels() -> None:
    """Reshaped straight to (h, w), 1.6 % of the patches land in place; undone, all of them."""
    tower = tiny.config(vision={"patch_size": 14, "window_size": 112}).vision_config
    grid = torch.tensor([[1, 32, 32]])
    truth = torch.arange(32 * 32).reshape(32, 32)
    merge_groups = truth.reshape(16, 2, 16, 2).permute(0, 2, 1, 3).reshape(256, 4)
    inside = merge_groups[window_order(grid, tower)].reshape(-1, 1)
    assert (inside.reshape(32, 32) == truth).float().mean() == pytest.approx(0.016, abs=0.0005)
    [undone] = raster([inside], grid, raster_order(grid, tower))
    assert torch.equal(undone[0, 0], truth)


def test_merged_tokens_stand_where_their_patches_stand() -> None:
    """A bright 2 x 2 merge group changes its own merged token and no other of the probe's."""
    network, cases = probe(3), 0
    for h, w in [(4, 6), (10, 6), (6, 14)]:
        dark = np.full((h, w), 0.2)
        cells = []
        for y in range(0, h, 2):
            for x in range(0, w, 2):
                cells.append(dark.copy())
                # the merger's norm divides by a patch's size, so the sign carries the light
                cells[-1][y : y + 2, x : x + 2] = -0.2
        with torch.no_grad():
            merged = network.encode(**pictures([dark, *cells])).merged
        places = [(y, x) for y in range(h // 2) for x in range(w // 2)]
        for (y, x), token in zip(places, merged[1:], strict=True):
            assert token.shape == (48, h // 2, w // 2)
            changed = (token - merged[0]).abs().amax(0) > 1e-6
            assert changed[y, x] and changed.sum() == 1
            cases += 1
    assert cases == 6 + 15 + 21


def test_neighbours_of_real_attention_stay_within_reach() -> None:
    """With real weights a changed patch moves its own cell of the first tap most."""
    network = tiny.network(vision={"fullatt_block_indexes": [0, 3]})
    cases = 0
    for h, w in [(8, 8), (6, 14), (10, 6)]:
        base = tiny.packed([(h, w)], network.config.vision_config)
        with torch.no_grad():
            before = network.encode(**base).taps[0][0]
            for place in range(0, h * w, 7):
                patches = base["pixel_values"].clone()
                patches[place] += 3
                after = network.encode(patches, base["image_grid_thw"]).taps[0][0]
                moved = (after - before).norm(dim=0)
                group, inner = divmod(place, 4)
                y, x = 2 * (group // (w // 2)) + inner // 2, 2 * (group % (w // 2)) + inner % 2
                assert int(moved.argmax()) == y * w + x
                cases += 1
    assert cases == 10 + 12 + 9


@pytest.mark.parametrize("indexes", [None, [0, 2], [3]])
def test_the_named_blocks_are_tapped(indexes: list[int] | None) -> None:
    network = tiny.network(image_tap_indexes=indexes)
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(network.model.visual.blocks):
        block.register_forward_hook(lambda m, i, out, n=number: seen.__setitem__(n, out))
    inputs = tiny.packed([(6, 10), (8, 8)], network.config.vision_config)
    with torch.no_grad():
        vision = network.encode(**inputs)
    blocks = indexes or [1, 3]
    order = raster_order(inputs["image_grid_thw"], network.config.vision_config)
    for level, number in enumerate(blocks):
        for image, expected in enumerate(raster([seen[number]], inputs["image_grid_thw"], order)):
            assert vision.taps[image].shape[0] == len(blocks)
            assert torch.equal(vision.taps[image][level], expected[0])

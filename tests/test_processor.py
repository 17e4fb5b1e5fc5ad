"""Pixels in and maps back: there and back within a pixel, patches in the backbone's order."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import tiny
import torch
from transformers import Qwen2VLImageProcessorPil

from medic_ad.errors import ModelError
from medic_ad.processor import ANO, DIFF, IMAGE, fit_square, grey_window, patchify, restore

SIZES = (5, 17, 48, 63, 64, 65, 100, 192, 240, 333, 512)


def blob(shape: tuple[int, int], y: float, x: float, sigma: float) -> np.ndarray:
    rows, columns = np.indices(shape)
    distance = (rows - y) ** 2 + (columns - x) ** 2
    return np.asarray(np.exp(-distance / (2 * sigma**2)), np.float32)


def test_a_planted_blob_comes_back_within_a_pixel() -> None:
    rng, cases, worst = np.random.default_rng(0), 0, 0.0
    for shape in itertools.product(SIZES[2:], SIZES[2:]):
        for side in (64, 192):
            sigma = max(1.5, 1.2 * max(shape) / side)
            margin = min(3 * sigma, (min(shape) - 1) / 2)
            y, x = (rng.uniform(margin, n - 1 - margin) for n in shape)
            image = blob(shape, y, x, sigma)
            canvas, geometry = fit_square(image, (0.0, 1.0), side)
            back = restore(canvas, geometry)
            assert canvas.shape == (side, side) and canvas.dtype == torch.float32
            assert back.shape == shape and back.dtype == np.float32
            weight = np.where(back > 0.2 * back.max(), back, 0)
            reference = np.where(image > 0.2, image, 0)
            for axis in (0, 1):
                found, true = (
                    (w.sum(1 - axis) * np.arange(shape[axis])).sum() / w.sum()
                    for w in (weight, reference)
                )
                worst = max(worst, abs(found - true))
            cases += 1
    assert cases == 162
    assert worst < 1.0


def test_a_single_pixel_comes_back_to_its_place_where_nothing_is_shrunk() -> None:
    rng, cases = np.random.default_rng(1), 0
    for shape in [(1, 1), (2, 5), (7, 3), (5, 17), (17, 48), (48, 31), (63, 64), (64, 64), (64, 9)]:
        for _ in range(5):
            place = tuple(int(rng.integers(n)) for n in shape)
            image = np.zeros(shape, np.float32)
            image[place] = 1
            canvas, geometry = fit_square(image, (0.0, 1.0), 64)
            back = restore(canvas, geometry)
            assert np.unravel_index(back.argmax(), shape) == place
            cases += 1
    assert cases == 45


def test_corners_and_edges_lie_where_the_geometry_says() -> None:
    cases = 0
    for shape in itertools.product(SIZES, repeat=2):
        canvas, g = fit_square(np.ones(shape, np.float32), (0.0, 1.0), 64)
        assert g.shape == shape and max(g.height, g.width) == 64
        inside = np.zeros((64, 64), bool)
        inside[g.top : g.top + g.height, g.left : g.left + g.width] = True
        assert np.array_equal(canvas.numpy() > 0.5, inside)
        assert np.allclose(canvas.numpy()[inside], 1, atol=1e-6)
        # aspect kept to half a canvas pixel, borders equal to one pixel
        assert abs(g.height - shape[0] * 64 / max(shape)) <= 0.5 or g.height == 1
        for size, start in ((g.height, g.top), (g.width, g.left)):
            assert abs((64 - size - start) - start) <= 1
        assert np.allclose(restore(canvas, g), 1, atol=1e-5)
        cases += 1
    assert cases == 121


def test_an_image_of_the_canvas_size_is_not_touched() -> None:
    image = np.random.default_rng(0).random((64, 64), np.float32)
    canvas, geometry = fit_square(image, (0.0, 1.0), 64)
    assert np.array_equal(canvas.numpy(), image)
    assert np.array_equal(restore(canvas, geometry), image)


def test_windowing_by_hand() -> None:
    image = np.array([[-50.0, 0, 50, 100, 150, np.nan]] * 6)
    canvas, _ = fit_square(image, (0.0, 100.0), 6)
    assert np.allclose(canvas.numpy(), [[0, 0, 0.5, 1, 1, 0]] * 6)  # NaN is the window's low end
    ramp = np.arange(1001, dtype=np.float32)
    assert grey_window(ramp) == pytest.approx((5, 995))
    assert grey_window(np.append(ramp, [np.nan] * 500)) == pytest.approx((5, 995))
    volume = np.stack([np.zeros((8, 8)), np.full((8, 8), 1000.0)])
    assert grey_window(volume) == pytest.approx((0, 1000))  # one window for all slices


def test_the_same_scan_in_other_units_is_the_same_canvas() -> None:
    image = np.random.default_rng(0).normal(500, 100, (50, 70))
    one = fit_square(image, grey_window(image), 64)[0]
    for gain, offset in ((3.7, -1024), (0.001, 5)):
        other = image * gain + offset
        assert torch.allclose(fit_square(other, grey_window(other), 64)[0], one, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 7.0, -1e6, np.nan])
def test_images_without_contrast_become_zeros(value: float) -> None:
    image = np.full((40, 70), value, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy: all-NaN slice
        window = grey_window(image)
    canvas, geometry = fit_square(image, window, 64)
    assert not canvas.any() and restore(canvas, geometry).shape == (40, 70)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 2])
def test_patches_equal_the_backbones_image_processor(channels: int, frames: int) -> None:
    """Against `Qwen2VLImageProcessorPil` as published, resizing aside: order and values."""
    mean, std = tiny.PUBLISHED_MEAN, tiny.PUBLISHED_STD
    if channels == 1:
        mean, std = [0.3] * 3, [0.2] * 3
    cases = 0
    for patch, side in ((4, 16), (4, 40), (14, 56), (14, 112), (8, 64)):
        canvases = tiny.canvases(3, side, side)
        tower = dict(patch_size=patch, in_channels=channels, window_size=4 * patch)
        config = tiny.config(vision={**tower, "temporal_patch_size": frames})
        patches, grids = patchify(canvases, config, mean, std)
        own = Qwen2VLImageProcessorPil(
            patch_size=patch, temporal_patch_size=frames, merge_size=2, do_resize=False,
            do_rescale=False, image_mean=mean, image_std=std,
        )  # fmt: skip
        images = [c.numpy()[..., None].repeat(3, 2) for c in canvases]
        right = own(images, return_tensors="pt")
        expected = right["pixel_values"].reshape(len(patches), 3, frames * patch**2)[:, :channels]
        assert torch.equal(grids, right["image_grid_thw"])
        assert torch.allclose(patches, expected.flatten(1), atol=1e-5)
        cases += len(patches)
    assert cases == 3 * (16 + 100 + 16 + 64 + 64)


def test_images_of_the_processor_are_what_the_heatmap_branch_sees() -> None:
    model = tiny.model()
    canvases = tiny.canvases(2)
    inputs = model.processor.images(canvases, model.config)
    own = model.processor.image_processor
    with torch.no_grad():
        seen = torch.stack(model.network.encode(**inputs).images)[:, 0]
    assert torch.allclose(seen * own.image_std[0] + own.image_mean[0], canvases, atol=1e-6)


# ------------------------------------------------------------------------------ prompts
def places(ids: list[int], token: int) -> list[tuple[int, int]]:
    """Runs of a token: first place and length."""
    runs, start = [], 0
    for value, group in itertools.groupby(ids):
        length = len(list(group))
        if value == token:
            runs.append((start, length))
        start += length
    return runs


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("answer", [None, "There is no anomaly."])
def test_stage_tokens_stand_right_after_their_images(images: int, answer: str | None) -> None:
    processor, config = tiny.processor(), tiny.config(pooled_size=3)
    prompt = processor.prompt("Is there an anomaly?", images, answer=answer)
    out = processor.text([prompt], config, merged=25)
    ids = out["input_ids"][0].tolist()
    pictures, ano = places(ids, config.image_token_id), places(ids, config.ano_token_id)
    diff = places(ids, config.diff_token_id)
    assert [n for _, n in pictures] == [25] * images and [n for _, n in ano] == [9] * images
    for (image, _), (run, _) in zip(pictures, ano, strict=True):
        assert ids[image - 1] == config.vision_start_token_id
        assert ids[image + 25] == config.vision_end_token_id
        assert run == image + 26  # right behind the image's end
    assert diff == [(ano[-1][0] + 9, 9)]  # once, after the later image's `<|ano|>`
    assert torch.equal(out["mm_token_type_ids"][0] == 1, out["input_ids"][0] == 5)
    text = processor.tokenizer.decode(ids)
    assert text.count("<|im_start|>user\n") == 1 and "Is there an anomaly?<|im_end|>" in text
    if answer is None:
        assert text.endswith("<|im_start|>assistant\n")
    else:
        assert text.endswith(f"<|im_start|>assistant\n{answer}<|im_end|>\n")


def test_without_stages_the_prompt_is_the_backbones() -> None:
    processor = tiny.processor()
    plain = processor.prompt("Where?", 2, stages=False)
    assert ANO not in plain and DIFF not in plain and plain.count(IMAGE) == 2
    assert processor.prompt("Where?", 2).replace(ANO, "").replace(DIFF, "") == plain


def test_batches_are_padded_on_the_left() -> None:
    processor, config = tiny.processor(), tiny.config()
    questions = ["Where?", "Is it worse than before, and where is the anomaly of the image?"]
    prompts = [processor.prompt(q) for q in questions]
    both = processor.text(prompts, config, 16)
    for row, prompt in enumerate(prompts):
        alone = processor.text([prompt], config, 16)
        n = alone["input_ids"].shape[1]
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            assert torch.equal(both[name][row, -n:], alone[name][0])
        assert not both["attention_mask"][row, :-n].any()
        assert (both["input_ids"][row, :-n] == processor.tokenizer.pad_token_id).all()
    assert both["attention_mask"][1].all() and not both["attention_mask"][0].all()


def test_too_long_a_prompt_is_refused_not_cut() -> None:
    processor = tiny.processor()
    prompt = processor.prompt("Where is the anomaly?" * 3, 2)
    n = processor.text([prompt], tiny.config(), 16)["input_ids"].shape[1]

    def config(limit: int):
        settings = tiny.config()
        settings.text_config.max_position_embeddings = limit
        return settings

    assert processor.text([prompt], config(n), 16)["input_ids"].shape[1] == n
    with pytest.raises(ModelError, match=f"at most {n - 1} tokens, got {n}; ask a shorter"):
        processor.text([prompt], config(n - 1), 16)


@pytest.mark.parametrize("token", [ANO, DIFF, IMAGE, "<|im_end|>", "<|vision_end|>"])
def test_a_question_cannot_smuggle_the_models_own_tokens(token: str) -> None:
    with pytest.raises(ModelError, match="expected a question in words"):
        tiny.processor().prompt(f"What is {token}?")


def test_the_nano_tokenizer_has_its_special_tokens_at_the_ids_of_the_configuration() -> None:
    tokenizer, config = tiny.processor().tokenizer, tiny.config()
    wanted = {
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
        IMAGE: config.image_token_id,
        ANO: config.ano_token_id,
        DIFF: config.diff_token_id,
        "<|im_end|>": config.text_config.eos_token_id,
        "<|endoftext|>": config.text_config.pad_token_id,
    }
    for token, number in wanted.items():
        assert tokenizer.convert_tokens_to_ids(token) == number
        assert tokenizer(f"a{token}b")["input_ids"].count(number) == 1
    sentence = "There is an anomaly in the upper left of the image. Compared with the prior: ß 0.7?"
    assert tokenizer.decode(tokenizer(sentence)["input_ids"]) == sentence
    assert len(tokenizer) <= tiny.ROWS

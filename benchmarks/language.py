"""Time to first token and tokens a second, beside transformers' plain class of the same weights.

`python benchmarks/language.py [MODEL] [ROUNDS]`; nano and 9 when not given. Both get prompts
of one length, images packed without padding; ours holds the stage tokens, and all three heads run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from rounds import added, clock, in_turns, machine, ratio, settle, spread

from medic_ad.evaluate.parts.forgetting import stock_of
from medic_ad.load import load_model
from medic_ad.model.modeling import MedicADForConditionalGeneration as Network

TOKENS, UNCACHED_TOKENS = 128, 16
WORDS = 24  # tokens of a question

Inputs = dict[str, torch.Tensor]


def request(
    network: Network, grid: tuple[int, int], images: int, staged: bool, batch: int = 1
) -> Inputs:
    """A batch of prompts of random words, each with random images of a patch grid `(h, w)`.

    Without stage tokens, words stand in their places: the prompts are of one length.
    """
    config, (h, w) = network.config, grid
    vision = config.vision_config
    lowest = 2 + max(config.ano_token_id, config.diff_token_id, config.image_token_id)
    words = range(lowest, config.text_config.vocab_size) if lowest < 1000 else range(10, 1000)
    generator = torch.Generator().manual_seed(0)

    def some(n: int) -> list[int]:
        return torch.randint(words.start, words.stop, (n,), generator=generator).tolist()

    def stage(token: int) -> list[int]:
        return [token] * config.pooled_size**2 if staged else some(config.pooled_size**2)

    def prompt() -> list[int]:
        ids = some(WORDS)
        for number in range(images):
            ids += [config.vision_start_token_id]
            ids += [config.image_token_id] * (h * w // vision.spatial_merge_size**2)
            ids += [config.vision_end_token_id, *stage(config.ano_token_id)]
            ids += stage(config.diff_token_id) if number == images - 1 else []
        return ids

    ids = torch.tensor([prompt() for _ in range(batch)])
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = torch.randn(batch * images * h * w, width, generator=generator)
    device = network.device
    inputs = {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "mm_token_type_ids": (ids == config.image_token_id).long().to(device),
        "pixel_values": patches.to(device, network.dtype),
        "image_grid_thw": torch.tensor([[1, h, w]] * (batch * images), device=device),
    }
    if staged:
        last = torch.arange(batch) * images + images - 1
        before = last - 1 if images > 1 else torch.full_like(last, -1)
        inputs["diff_pairs"] = torch.stack([before, last], 1)
    return inputs


def generated(
    network: torch.nn.Module, inputs: Inputs, tokens: int, cache: bool = True
) -> Callable:
    """A call that generates exactly so many tokens."""
    return lambda: network.generate(
        **inputs,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        use_cache=cache,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )


def first_token(
    network: Network, plain: torch.nn.Module, grid: tuple[int, int], images: int, rounds: int
) -> dict[str, object]:
    """Tower and prefill of one request, no generation: with all heads, and the plain class."""
    staged = request(network, grid, images, staged=True)
    bare = request(network, grid, images, staged=False)

    def read() -> None:
        """Detect, compare where there are two images, explain, prefill: one vision pass."""
        vision = network.encode(staged["pixel_values"], staged["image_grid_thw"])
        detected = network.detect(vision)
        network.explain(vision, detected)
        network(
            input_ids=staged["input_ids"],
            attention_mask=staged["attention_mask"],
            mm_token_type_ids=staged["mm_token_type_ids"],
            image_grid_thw=staged["image_grid_thw"],
            mm_encoder_outputs={"image": vision.encoder},
            ano_embeds=torch.stack([d.embeds for d in detected]),
            diff_embeds=network.diff_embeds(vision, detected, staged["diff_pairs"]),
            logits_to_keep=1,
        )

    cases = {"plain": lambda: plain(**bare, logits_to_keep=1), "ours": read}
    device = network.device.type
    seconds = in_turns(cases, rounds, device)
    return {
        "images": images,
        "prompt_tokens": bare["input_ids"].shape[1],
        "ms": {name: spread([1000 * s for s in each]) for name, each in seconds.items()},
        "heads_add": added(seconds, "ours", "plain"),
    }


def tokens_a_second(
    network: Network, plain: torch.nn.Module, grid: tuple[int, int], rounds: int
) -> dict[str, object]:
    """After the first token, with a KV cache and without."""
    staged, bare = (request(network, grid, 1, staged=s) for s in (True, False))
    cases = {
        f"{name}_{tokens}": generated(of, inputs, tokens, cache)
        for name, of, inputs, cache, tokens in (
            ("ours", network, staged, True, 1),
            ("ours", network, staged, True, TOKENS),
            ("plain", plain, bare, True, 1),
            ("plain", plain, bare, True, TOKENS),
            ("uncached", plain, bare, False, 1),
            ("uncached", plain, bare, False, UNCACHED_TOKENS),
        )
    }
    seconds = in_turns(cases, rounds, network.device.type)
    last = {"ours": TOKENS, "plain": TOKENS, "uncached": UNCACHED_TOKENS}
    rates = {
        name: [
            (tokens - 1) / (whole - first)
            for whole, first in zip(seconds[f"{name}_{tokens}"], seconds[f"{name}_1"], strict=True)
        ]
        for name, tokens in last.items()
    }
    return {
        **{f"{name}_tokens_a_second": spread(rate) for name, rate in rates.items()},
        "ours_of_plain": ratio(rates, "ours", "plain"),
        "request_of_128_tokens_seconds": spread(seconds[f"ours_{TOKENS}"]),
    }


def requests_a_second(
    network: Network, grid: tuple[int, int], batch: int, rounds: int
) -> dict[str, object]:
    """Requests of one image and 128 tokens, `batch` at a time."""
    device = network.device.type
    call, seconds = generated(network, request(network, grid, 1, True, batch), TOKENS), []
    now = clock(device)
    with torch.inference_mode():
        for _ in range(rounds + 1):  # the first warms up
            start = now()
            call()
            settle(device)
            seconds.append(now() - start)
    return {
        "batch": batch,
        "tokens": TOKENS,
        "requests_a_second": spread([batch / s for s in seconds[1:]]),
    }


def main(name: str = "nano", rounds: int = 9) -> dict[str, object]:
    network = load_model(name, "cpu").network
    plain = stock_of(network)
    side = network.config.image_size // network.config.vision_config.patch_size
    grid = (side, side)
    return {
        "model": name,
        "first_token": [first_token(network, plain, grid, n, rounds) for n in (1, 2, 4)],
        "generation": tokens_a_second(network, plain, grid, max(3, rounds // 3)),
        "requests": requests_a_second(network, grid, 8, 3),
        **machine(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python benchmarks/language.py [MODEL] [ROUNDS]")
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]

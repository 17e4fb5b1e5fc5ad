"""What detect and explain cost beside the vision tower, and the tower beside transformers' own.

`python benchmarks/stages.py [MODEL] [BATCH] [ROUNDS]`; nano, 16 and 15 when not given. All cases
see the same canvases and take turns in one process: transformers' tower with the same weights under
SDPA, ours, detect (tower and anomaly processor), the heatmap, and a MONAI U-Net of about 1 M
parameters. Needs the extra `train`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from rounds import added, in_turns, machine, milliseconds, ratio

from medic_ad.evaluate.parts.forgetting import stock_of
from medic_ad.evaluate.unet import build
from medic_ad.load import load_model
from medic_ad.look import look
from medic_ad.model.linear import packed
from medic_ad.model.pixel import arrange


def main(name: str = "nano", batch: int = 16, rounds: int = 15) -> dict[str, object]:
    torch.manual_seed(0)
    model = load_model(name, "cpu")
    network, side = model.network, model.config.image_size
    canvases = torch.rand(batch, side, side)
    images = model.processor.images(canvases, model.config)
    patches, grids = images["pixel_values"], images["image_grid_thw"]
    theirs, ours = stock_of(network).model.visual, network.model.visual
    theirs.set_attn_implementation("sdpa")
    unet = build().eval().requires_grad_(False)
    arrange(unet, torch.channels_last)
    pixels = canvases[:, None].contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), packed():
        difference = (
            theirs(patches, grids).pooler_output - ours(patches, grids).pooler_output
        ).abs()
        vision = network.encode(**images)
        detected = network.detect(vision)
    cases: dict[str, Callable[[], object]] = {
        "transformers_tower": lambda: theirs(patches, grids),
        "tower": lambda: ours(patches, grids),
        "encode": lambda: network.encode(**images),
        "anomaly_processor": lambda: network.detect(vision),
        "detect": lambda: network.detect(network.encode(**images)),
        "heatmap": lambda: network.explain(vision, detected),
        "unet": lambda: unet(pixels),
        "look": lambda: look(model, canvases),
    }
    with packed():  # as `look` does; transformers' tower knows nothing of it
        seconds = in_turns(cases, rounds)
    return {
        "model": name,
        "batch": batch,
        "ms_an_image": milliseconds(seconds, batch),
        "tower_speedup_over_transformers": ratio(seconds, "transformers_tower", "tower"),
        "tower_largest_difference": float(difference.max()),
        "detect_adds_to_tower": added(seconds, "detect", "tower"),
        "heatmap_of_unet": ratio(seconds, "heatmap", "unet"),
        "parameters": {
            part: sum(p.numel() for p in of.parameters())
            for part, of in {
                "tower": ours,
                "detector": network.detector,
                "explainer": network.explainer,
                "unet": unet,
            }.items()
        },
        **machine(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 4:
        sys.exit("usage: python benchmarks/stages.py [MODEL] [BATCH] [ROUNDS]")
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]

"""Full size on a GPU with random weights: what the heads add, requests a second, training steps.

`python benchmarks/gpu.py [SIZE] [ROUNDS]`; qwen2.5-vl-7b and 9 when not given. SIZE is a name of
`medic_ad.model.presets.PRESETS`, or a folder with the config.json of a smaller model, which also
runs on a CPU. Speed does not depend on what the weights say, so none are downloaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from language import first_token, request, requests_a_second
from rounds import machine, settle
from training import measure

from medic_ad.errors import MedicADError, ModelError
from medic_ad.evaluate.parts.forgetting import stock_of
from medic_ad.load import load_model
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.modeling import MedicADForConditionalGeneration as Network
from medic_ad.model.presets import nano_config

PIXELS = (480, 640)  # rows, columns of a request; each side is rounded to whole merge groups
REQUESTS, TRAINED = (1, 8, 32), 8  # batches
ON_CPU = 10**8  # parameters beyond which a CPU is refused
TOKENS = ("vision_start", "vision_end", "image", "video", "ano", "diff")


def configuration(size: str) -> MedicADConfig:
    """The shapes, with nano's special tokens, since its tokenizer writes the prompts.

    Raises:
        ModelError: the size is not known.
    """
    if (Path(size) / "config.json").is_file():
        config = MedicADConfig.from_pretrained(size)
    else:
        from medic_ad.model.presets import PRESETS, preset_config

        if size not in PRESETS:
            raise ModelError(
                f"expected a size of {', '.join(PRESETS)} or a folder with config.json, got "
                f"{size!r}; name another."
            )
        config = preset_config(size)
    nano = nano_config()
    for token in TOKENS:
        setattr(config, f"{token}_token_id", getattr(nano, f"{token}_token_id"))
    return config


def build(config: MedicADConfig) -> Network:
    """A network of random weights, made where it will run; bfloat16 on a GPU.

    Raises:
        ModelError: it is too large for a machine without a GPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device("meta"):
        parameters = sum(p.numel() for p in Network(config).parameters())
    if device == "cpu" and parameters > ON_CPU:
        raise ModelError(
            f"expected a GPU for {parameters / 1e9:.1f} billion parameters, but torch sees none; "
            "run this on a machine with one, or give a folder of a tiny model."
        )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            network = Network(config)
    finally:
        torch.set_default_dtype(before)
    return network.eval().requires_grad_(False)


def memory(network: Network, plain: torch.nn.Module, grid: tuple[int, int]) -> dict[str, object]:
    """Bytes of the parameters, and on a GPU the peak of one prefill of either class."""
    heads = sum(
        p.numel() * p.element_size()
        for name in ("detector", "comparer", "explainer")
        for p in getattr(network, name).parameters()
    )
    backbone = sum(p.numel() * p.element_size() for p in network.parameters()) - heads
    out: dict[str, object] = {
        "backbone_mb": backbone / 1e6,
        "heads_mb": heads / 1e6,
        "heads_add": heads / backbone,
    }
    if network.device.type == "cuda":
        for name, of, staged in (("plain", plain, False), ("ours", network, True)):
            torch.cuda.reset_peak_memory_stats()
            with torch.inference_mode():
                of(**request(network, grid, 1, staged), logits_to_keep=1)
            settle("cuda")
            peak = torch.cuda.max_memory_allocated() / 1e6
            # the heads' parameters lie there in both cases
            out[f"peak_{name}_mb"] = peak - (heads / 1e6 if name == "plain" else 0)
    return out


def main(size: str = "qwen2.5-vl-7b", rounds: int = 9) -> dict[str, object]:
    network = build(configuration(size))
    plain, vision = stock_of(network), network.config.vision_config
    unit = vision.patch_size * vision.spatial_merge_size
    rows, columns = (vision.spatial_merge_size * round(side / unit) for side in PIXELS)
    grid = (rows, columns)
    device = network.device.type
    return {
        "size": size,
        "request_pixels": [side * vision.patch_size for side in grid],
        "first_token": [first_token(network, plain, grid, n, rounds) for n in (1, 2)],
        "memory": memory(network, plain, grid),
        "requests": [requests_a_second(network, grid, n, 3) for n in REQUESTS],
        "training": measure(network, load_model("nano", "cpu").processor, TRAINED, rounds),
        "dtype": str(network.dtype),
        **machine(device),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python benchmarks/gpu.py [SIZE] [ROUNDS]")
    try:
        print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]
    except MedicADError as error:
        sys.exit(str(error))

"""Other ways to compute detect and heatmap on a CPU, beside the one that `look` takes.

`python benchmarks/alternatives.py [MODEL] [BATCH] [ROUNDS]`; nano, 16 and 9 when not given. All
cases see the same patches and take turns in one process: `look`'s way (weights packed for oneDNN),
torch alone, torch.compile, int8 (the tower's linear layers, quantised dynamically), and the heatmap
decoder by itself in torch and in OpenVINO. What is not installed is named under `absent`: a C++
compiler, the package openvino.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rounds import in_turns, machine, milliseconds, ratio
from torch import nn

from medic_ad.load import load_model
from medic_ad.model.batches import together
from medic_ad.model.linear import PackedLinear, packed
from medic_ad.model.modeling import MedicADForConditionalGeneration as Network

Outputs = tuple[torch.Tensor, torch.Tensor]
OPENVINO = {"float32": "f32", "bfloat16": "bf16"}


def whole(network: Network, images: dict[str, torch.Tensor]) -> Outputs:
    """Image logits `(B,)` and heatmaps `(B, S, S)` in [0, 1]."""
    vision = network.encode(**images)
    detected = network.detect(vision)
    heatmaps = torch.stack(network.explain(vision, detected)).sigmoid()
    return torch.stack([d.logit for d in detected]), heatmaps


def unpacked(network: Network) -> Network:
    """A copy with torch's own linear layers, which compilers and quantisation know."""
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if type(module) is PackedLinear:
            module.__class__ = nn.Linear
    return plain


def compiled(network: Network) -> Callable[..., Outputs]:
    """By torch.compile with constant weights; it breaks where shapes are read from data."""
    return torch.compile(partial(whole, network), options={"freezing": True})


def quantised(network: Network) -> Network:
    """The tower's linear layers in int8, activations by their range at each call."""
    tower = torch.ao.quantization.quantize_dynamic(network.model.visual, {nn.Linear}, torch.qint8)
    network.model.visual = tower
    return network


def openvino_decoder(decoder: nn.Module, given: Sequence[torch.Tensor], precision: str) -> Callable:
    """The heatmap decoder as OpenVINO's network for one shape, on as many threads as torch."""
    import openvino  # type: ignore[import-not-found,import-untyped,unused-ignore]

    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }
    converted = openvino.convert_model(decoder, example_input=tuple(given))
    call = openvino.compile_model(converted, "CPU", options)
    return lambda *tensors: torch.from_numpy(call([t.numpy() for t in tensors])[0])


def main(name: str = "nano", batch: int = 16, rounds: int = 9) -> dict[str, object]:
    torch.manual_seed(0)
    model = load_model(name, "cpu")
    network, side = model.network, model.config.image_size
    images = model.processor.images(torch.rand(batch, side, side), model.config)
    plain, absent = unpacked(network), []
    ways: dict[str, Callable[..., Outputs]] = {
        "look": partial(whole, network),
        "torch": partial(whole, plain),
        "int8": partial(whole, quantised(copy.deepcopy(plain))),
    }
    if shutil.which("g++"):
        ways["compile"] = compiled(plain)
    else:
        absent.append("g++")
    with torch.inference_mode(), packed():
        vision = network.encode(**images)
        embeds = [d.embeds for d in network.detect(vision)]
    given = [x.clone() for x in map(together, (vision.taps, embeds, vision.images))]
    decoders: dict[str, Callable] = {"decoder": network.explainer}
    if importlib.util.find_spec("openvino"):
        for precision, hint in OPENVINO.items():
            decoders[f"decoder_openvino_{precision}"] = openvino_decoder(
                network.explainer, given, hint
            )
    else:
        absent.append("openvino")
    cases = {key: partial(way, images) for key, way in ways.items()}
    cases |= {key: partial(decoder, *given) for key, decoder in decoders.items()}
    with packed():  # which `unpacked` copies know nothing of
        with torch.inference_mode():
            logits, heatmaps = cases["look"]()
            differences = {
                key: {
                    "logit": float((out[0] - logits).abs().max()),
                    "heatmap": float((out[1] - heatmaps).abs().max()),
                }
                for key in ways
                for out in [cases[key]()]
            }
            differences |= {
                key: {"heatmap": float((decoder(*given).sigmoid() - heatmaps).abs().max())}
                for key, decoder in decoders.items()
            }
        seconds = in_turns(cases, rounds)
    return {
        "model": name,
        "batch": batch,
        "absent": absent,
        "ms_an_image": milliseconds(seconds, batch),
        "time_of_look": {key: ratio(seconds, key, "look") for key in ways},
        "time_of_decoder": {key: ratio(seconds, key, "decoder") for key in decoders},
        "largest_difference": differences,
        **machine(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 4:
        sys.exit("usage: python benchmarks/alternatives.py [MODEL] [BATCH] [ROUNDS]")
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]

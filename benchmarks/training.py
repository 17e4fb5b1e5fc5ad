"""Time, work and memory of one training step of each stage.

`python benchmarks/training.py [MODEL] [BATCH] [ROUNDS]`; nano, 8 and 5 when not given. The stages'
own losses on made slices. Work is what torch's counter saw being done, forward and backward: frozen
parts have no gradient, and none is counted. Its share is of the GPU's published peak where it is
known here, and else of the fastest matrix product of the same run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from rounds import machine, settle, spread
from torch.utils.flop_counter import FlopCounterMode

from medic_ad import words
from medic_ad.load import load_model
from medic_ad.model.modeling import MedicADForConditionalGeneration as Network
from medic_ad.processor import MedicADProcessor
from medic_ad.train import compare, detect, explain
from medic_ad.train.frozen import freeze_for

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bfloat16, dense, as NVIDIA publishes
DIALOGUE = (words.DETECT_QUESTION, "There is no anomaly.")


def losses(
    network: Network, processor: MedicADProcessor, batch: int
) -> dict[str, Callable[[], torch.Tensor]]:
    """Of each stage a call that gives its loss."""
    side, device = network.config.image_size, network.device
    image, other = (torch.rand(batch, side, side, device=device) for _ in range(2))
    mask = torch.zeros(batch, side, side, device=device)
    mask[::2, side // 4 : side // 2, side // 4 : side // 2] = 1
    known, some = torch.ones(batch, dtype=torch.bool, device=device), max(1, batch // 8)
    one = detect.DetectStage(network, processor, detect.DetectArguments(data="", out=""))
    two = compare.CompareStage(network, processor, compare.CompareArguments(data="", out=""))
    three = explain.ExplainStage(network, explain.ExplainArguments(data="", out=""))
    asked = {"dialogues": [DIALOGUE] * batch, "hints": [""] * batch}
    seen = processor.images(torch.cat([image, other[:some]]), network.config)
    pair = {"image": image, "followup": other, "mask": mask, "mask_followup": mask}
    return {
        "detect": lambda: one(image, mask, mask.amax((1, 2)), known, **asked)["loss"],
        "compare": lambda: two(
            **pair, known=[True] * batch, change=["stable"] * batch, dialogues=asked["dialogues"],
        )["loss"],
        "explain": lambda: three(pixels=seen, mask=mask, twin=other[:some])["loss"],
    }  # fmt: skip


def fastest_product(device: str, dtype: torch.dtype) -> float:
    """Operations a second of one large matrix product, the best of ten."""
    side = 8192 if device != "cpu" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        settle(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def peak_of(device: str, dtype: torch.dtype) -> tuple[float, str]:
    """Operations a second that work is a share of, and where the figure is from."""
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    for known, peak in PEAKS.items():
        if known in name and dtype == torch.bfloat16:
            return peak, f"published for {known}"
    return fastest_product(device, dtype), "fastest matrix product of this run"


def measure(
    network: Network, processor: MedicADProcessor, batch: int, rounds: int
) -> dict[str, object]:
    """Each stage in turn, on the device and in the precision of the network."""
    device, bf16 = network.device.type, network.dtype == torch.bfloat16
    peak, source = peak_of(device, network.dtype)
    out: dict[str, object] = {"operations_a_second_of_peak": peak, "peak": source}
    for name, loss in losses(network, processor, batch).items():
        freeze_for(network, name)
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters)

        def step(loss=loss, optimiser=optimiser) -> None:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                value = loss()
            value.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        with FlopCounterMode(display=False) as counter:  # and the warm-up
            step()
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            step()
            settle(device)
            seconds.append(time.perf_counter() - start)
        work = counter.get_total_flops()
        out[name] = {
            "seconds": spread(seconds),
            "operations": work,
            "share_of_peak": spread([work / s / peak for s in seconds]),
            "trained_parameters": sum(p.numel() for p in parameters),
            "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6 if device != "cpu" else None,
        }
    return out


def main(name: str = "nano", batch: int = 8, rounds: int = 5) -> dict[str, object]:
    model = load_model(name, "cpu")
    measured = measure(model.network, model.processor, batch, rounds)
    return {"model": name, "batch": batch, **measured, **machine()}


if __name__ == "__main__":
    if len(sys.argv) > 4:
        sys.exit("usage: python benchmarks/training.py [MODEL] [BATCH] [ROUNDS]")
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]

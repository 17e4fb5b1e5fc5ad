"""Evaluation: `medic-ad evaluate card` measures the bundled model and writes the card's figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from medic_ad.errors import DataError
from medic_ad.evaluate.baselines import peers
from medic_ad.evaluate.card import (
    ablate,
    compare,
    detect,
    flair,
    language,
    localise,
    longitudinal,
    sanity,
    speed,
)
from medic_ad.evaluate.material.seen import seen_patients
from medic_ad.evaluate.material.sets import CHENG, samples_of
from medic_ad.evaluate.output.markdown import fragment, insert, refuse_without_markers
from medic_ad.evaluate.output.record import as_json, provenance, write_texts
from medic_ad.evaluate.predictions.store import Context, Part, Store
from medic_ad.evaluate.unet import UNet
from medic_ad.load import load_model
from medic_ad.option import check_positive, check_seed

PARTS: dict[str, Callable[[Context], Part]] = {
    "localise": localise.measure,
    "false_positives": localise.false_positives,
    "detect": detect.measure,
    "flair": flair.measure,
    "compare": compare.measure,
    "longitudinal": longitudinal.measure,
    "language": language.measure,
    "sanity": sanity.measure,
    "ablate": ablate.measure,
}


@dataclass
class CardArguments:
    """Arguments of `medic-ad evaluate card`."""

    data_root: str = field(metadata={"help": "folder that holds the data sets under their names"})
    out: str = field(metadata={"help": "folder of card.json, caches and the log of openings"})
    model: str = field(default="nano", metadata={"help": "name of a model, or its folder"})
    card: str = field(
        default="", metadata={"help": "Markdown file whose figures are replaced; none when empty"}
    )
    unet: str = field(
        default="", metadata={"help": "folder of the reference U-Net, if trained; needs --data"}
    )
    data: str = field(
        default="", metadata={"help": "table that model and U-Net were trained on, beside --unet"}
    )
    seed: int = field(default=0, metadata={"help": "of synthesis and resampling"})
    resamples: int = field(default=1000, metadata={"help": "of the bootstrap"})
    pairs: int = field(default=300, metadata={"help": "synthetic pairs of dates"})
    read_pairs: int = field(default=60, metadata={"help": "of them, read as files in both orders"})

    def __post_init__(self) -> None:
        if bool(self.unet) != bool(self.data):
            raise DataError(
                f"expected --unet and --data together, got --unet {self.unet!r} and --data "
                f"{self.data!r}; name the table that the U-Net was trained on, or neither"
            )
        check_positive(self, "resamples", "pairs", "read_pairs")
        check_seed(self)


def main(arguments: CardArguments) -> dict[str, Any]:
    """Measure every part and write `card.json`, `card.md` and the figures of the model card.

    Returns:
        What `card.json` holds.
    """
    console, out, root = Console(stderr=True), Path(arguments.out), Path(arguments.data_root)
    if arguments.card:
        refuse_without_markers(Path(arguments.card))
    if arguments.unet:
        record = UNet.load(Path(arguments.unet)).record
        peers.refuse_other(record, arguments.data, "test", "unet")
    command = f"medic-ad evaluate card --model {arguments.model} --seed {arguments.seed}"
    context = Context(
        model=load_model(arguments.model),
        root=root,
        store=Store(out, command),
        seed=arguments.seed,
        resamples=arguments.resamples,
        pairs=arguments.pairs,
        read_pairs=arguments.read_pairs,
        unet=Path(arguments.unet) if arguments.unet else None,
        seen=seen_patients(arguments.model, samples_of(root, flair.NAME)),
    )
    parts, seconds = {}, {}
    for name, measure in PARTS.items():
        start = time.monotonic()
        parts[name] = measure(context)
        seconds[name] = round(time.monotonic() - start, 1)
        console.print(f"{parts[name].title}: {seconds[name]:.0f} s")
    example = samples_of(root, CHENG, "test")[0].image
    timing = speed.measure_speed(arguments.model, example)
    result = {
        "provenance": provenance(context.model, arguments),
        "seconds": seconds,
        "parts": {name: dataclasses.asdict(part) for name, part in parts.items()},
        "speed": timing,
    }
    text = fragment(result["provenance"], list(parts.values()), timing)
    write_texts(out, {"card.json": as_json(result), "card.md": text})
    if arguments.card:
        insert(Path(arguments.card), text)
    console.print(f"Written: {out / 'card.json'}")
    return result

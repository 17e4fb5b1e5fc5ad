"""Evaluation: what figures depend on, and JSON that any reader takes."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from medic_ad import __version__
from medic_ad.evaluate.figures.bootstrap import LEVEL, Figure
from medic_ad.evaluate.predictions.store import READ_WITH
from medic_ad.load import Model
from medic_ad.report.schema import NOTICE

LOCAL = ("data_root", "card")  # arguments that only say where things lie on this machine


def made_by(arguments: Any) -> dict[str, Any]:
    """What figures depend on beside weights.

    Args:
        arguments: the dataclass of the command; paths of this machine are left out.
    """
    return {
        "medic_ad": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": {k: v for k, v in dataclasses.asdict(arguments).items() if k not in LOCAL},
        "level": LEVEL,
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": {
            "platform": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def provenance(model: Model, arguments: Any) -> dict[str, Any]:
    """What every figure of a model depends on; `arguments` as for `made_by`."""
    calibration, made = model.network.calibration, made_by(arguments)
    fitted = ("threshold", "band_low", "band_high", "heatmap_threshold", "prevalence", "gate_limit")
    made["machine"]["device"] = str(model.device)
    return made | {
        "model": model.name,
        "weights_sha256": model.weights_sha256,
        "read_with": READ_WITH,
        "scope": {
            name: {key: float(getattr(calibration, key)[i]) for key in fitted}
            for i, name in enumerate(model.config.scope)
        },
        "change_temperature": float(calibration.change_temperature),
    }


def write_figures(
    arguments: Any,
    model: Model | None,
    name: str,
    figures: Sequence[Figure],
    lines: Sequence[str],
    **more: Any,
) -> Path:
    """Write NAME.json and NAME.md into `arguments.out`; the path of the page.

    Args:
        arguments: the dataclass of the command.
        model: whose figures they are; `None` where no weights are in them.
        lines: of the page, below the head that says what the figures depend on.
        more: what else the JSON holds.
    """
    out = Path(arguments.out)
    made = made_by(arguments) if model is None else provenance(model, arguments)
    whose = "no weights" if model is None else f"weights {model.weights_sha256[:16]}"
    splits = "; ".join(dict.fromkeys(f"{f.split} (unit: {f.unit})" for f in figures))
    head = [
        f"# {name.capitalize()}",
        "",
        NOTICE,
        "",
        f"Made by `medic-ad evaluate {name}` with {whose}, medic_ad {made['medic_ad']}, torch "
        f"{made['libraries']['torch']}, {made['date'][:10]}, seed {arguments.seed}. Images: "
        f"{splits}. n is in the table.",
        "",
    ]
    record = {
        "research_use": NOTICE,
        "provenance": made,
        "figures": [dataclasses.asdict(f) for f in figures],
        **more,
    }
    page = "\n".join([*head, *lines])
    write_texts(out, {f"{name}.json": as_json(record) + "\n", f"{name}.md": page + "\n"})
    return out / f"{name}.md"


def as_json(found: Any) -> str:
    """Any dataclasses, lists and numbers as JSON that every reader takes."""
    return json.dumps(without_nan(found), indent=1, allow_nan=False)


def figure_of(found: dict[str, Any]) -> Figure:
    """A figure from the JSON that it was written to."""
    value = math.nan if found["value"] is None else found["value"]
    interval = None if found["interval"] is None else tuple(found["interval"])
    return Figure(**{**found, "value": value, "interval": interval})


def write_texts(folder: Path, texts: dict[str, str]) -> None:
    """Write files, name -> content, each whole; none where one cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f".{name}.part").write_text(text, encoding="utf-8")
    for name in texts:
        os.replace(folder / f".{name}.part", folder / name)


def without_nan(value: Any) -> Any:
    """The same with null where a number is not defined."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

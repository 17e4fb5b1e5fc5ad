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
from medic_ad.evaluate.bootstrap import LEVEL, Figure
from medic_ad.evaluate.store import READ_WITH, Context

LOCAL = ("data_root", "card")  # arguments that only say where things lie on this machine


def provenance(context: Context, arguments: Any) -> dict[str, Any]:
    """What every figure depends on.

    Args:
        arguments: the dataclass of the command; paths of this machine are left out.
    """
    calibration = context.model.network.calibration
    scope = list(context.model.config.scope)
    fitted = ("threshold", "band_low", "band_high", "heatmap_threshold", "prevalence", "gate_limit")
    return {
        "medic_ad": __version__,
        "model": context.model.name,
        "weights_sha256": context.weights,
        "read_with": READ_WITH,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "arguments": {k: v for k, v in dataclasses.asdict(arguments).items() if k not in LOCAL},
        "scope": {
            name: {key: float(getattr(calibration, key)[i]) for key in fitted}
            for i, name in enumerate(scope)
        },
        "change_temperature": float(calibration.change_temperature),
        "level": LEVEL,
        "libraries": {"torch": torch.__version__, "transformers": transformers.__version__},
        "machine": {
            "platform": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(context.model.device),
        },
    }


def write_figures(
    arguments: Any, name: str, figures: Sequence[Figure], lines: Sequence[str], **more: Any
) -> Path:
    """Write NAME.json and NAME.md into `arguments.out`; the path of the page.

    Args:
        arguments: the dataclass of the command.
        lines: of the page.
        more: what else the JSON holds.
    """
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "arguments": dataclasses.asdict(arguments),
        "figures": [dataclasses.asdict(f) for f in figures],
        **more,
    }
    content = json.dumps(without_nan(record), indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    page = out / f"{name}.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def without_nan(value: Any) -> Any:
    """The same with null where a number is not defined."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

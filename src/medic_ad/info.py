"""`medic-ad info`: what is installed here, as plain values; weights are not loaded."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import safe_open

from medic_ad import __version__
from medic_ad.model.calibration import FITTED
from medic_ad.models import MODELS

LIBRARIES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-image",
    "pydicom",
    "highdicom",
    "pylibjpeg",
    "nibabel",
    "Pillow",
    "SimpleITK",
    "monai",
    "nilearn",
)


def collect() -> dict[str, Any]:
    """Version, models, libraries and devices; absent is None, never NaN."""
    return {
        "medic_ad": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "models": [_model(name) for name in MODELS],
        "libraries": {name: _version(name) for name in LIBRARIES},
        "devices": _devices(),
    }


def _model(name: str) -> dict[str, Any]:
    info = MODELS[name]
    record = {
        "name": name,
        "summary": info.summary,
        "licence": info.licence,
        "base": info.base,
        "installed": (info.path / "config.json").is_file(),
    }
    if not record["installed"]:
        return record
    from medic_ad.models import weights_sha256

    config = json.loads((info.path / "config.json").read_text(encoding="utf-8"))
    fitted = _calibration(info.path)
    scope = [
        {"entry": entry, **{key: fitted[key][index] for key in FITTED}}
        for index, entry in enumerate(config["scope"])
    ]
    return {
        **record,
        "weights_sha256": weights_sha256(info.path),
        "bytes": sum(file.stat().st_size for file in info.path.glob("*.safetensors")),
        "image_size": config["image_size"],
        "scope": scope,
        "change_temperature": fitted["change_temperature"][0],
    }


def _calibration(folder: Path) -> dict[str, list[float | None]]:
    """The fitted numbers of a checkpoint; None where never fitted."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (not a dict)
                name = key.removeprefix("calibration.")
                if name != key and name in (*FITTED, "change_temperature"):
                    values = tensors.get_tensor(key).ravel().tolist()
                    found[name] = [v if math.isfinite(v) else None for v in values]
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, str]]:
    import torch

    found = [{"name": "cpu", "what": f"{torch.get_num_threads()} threads"}]
    found += [
        {"name": f"cuda:{i}", "what": torch.cuda.get_device_name(i)}
        for i in range(torch.cuda.device_count())
    ]
    return found

"""Evaluation: networks from scratch as files: weights, record of the training, its table."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from medic_ad.errors import ModelError


def trained_on(data: str) -> dict[str, str]:
    """What a record says of the table: its name, hash and splits."""
    path = Path(data)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"table": path.stem, "sha256": sha256, "split": "train", "chosen_on": "val"}


def save(folder: Path, network: nn.Module, record: dict[str, Any], command: str) -> None:
    """Write `COMMAND.safetensors` and `COMMAND.json`."""
    weights = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    save_file(weights, folder / f"{command}.safetensors")
    (folder / f"{command}.json").write_text(json.dumps(record, indent=1))


def load(folder: Path, network: nn.Module, command: str) -> tuple[dict[str, Any], str]:
    """Fill a network with what `medic-ad evaluate COMMAND` wrote.

    Returns: its record, and the sha256 of its weights.

    Raises:
        ModelError: there is none.
    """
    path = folder / f"{command}.safetensors"
    try:
        record = json.loads((folder / f"{command}.json").read_text())
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"expected a network of `medic-ad evaluate {command}` in {folder}, but "
            f"{error.filename} cannot be read; run that command first, or leave --{command} out"
        ) from error
    network.load_state_dict(load_file(path))
    network.eval()
    return record, hashlib.sha256(data).hexdigest()


def refuse_other(record: dict[str, Any], data: str, split: str, command: str) -> None:
    """Refuse to stand beside a model on a table that the network was not trained on.

    Args:
        record: of the network's training.
        data: the table; `split` is the measured one.

    Raises:
        ModelError: it was trained on another table, or on the measured split.
    """
    own = record.get("trained_on", {"table": "a table that its record does not name"})
    if own.get("sha256") != trained_on(data)["sha256"]:
        raise ModelError(
            f"expected --{command} to name a network trained on {data}, got one trained on "
            f"{own['table']}, or on another version of it; train it again by `medic-ad evaluate "
            f"{command} --data {data}`"
        )
    if split == own["split"]:
        raise ModelError(
            f"expected another split than {split!r} beside --{command}, which was "
            "trained on it; measure test, or leave the network out"
        )

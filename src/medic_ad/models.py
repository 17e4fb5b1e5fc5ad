"""Step 4, registry of named models, their folders and hashes; imports nothing heavy."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from medic_ad.errors import ModelError

WEIGHTS = Path(__file__).parent / "weights"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
ATTENTION = ("sdpa", "flash_attention_2", "eager")


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be named on the command line.

    Attributes:
        path: folder in the Hub's layout.
        summary: one line for `--help` and `info`.
        licence: licence of the weights.
        base: what the backbone is.
    """

    path: Path
    summary: str
    licence: str
    base: str


MODELS: dict[str, ModelInfo] = {
    "nano": ModelInfo(
        path=WEIGHTS / "nano",
        summary="bundled CPU model; scope: brain MR (T1, T1-CE, FLAIR)",
        licence="Apache-2.0; training data CC BY 4.0, see MODEL_CARD.md",
        base="own backbone of Qwen2.5-VL's architecture, trained by `medic-ad train base`",
    ),
}


def find_checkpoint(name_or_path: str | Path, hub: bool = False) -> str | Path:
    """The folder of a named model, or the folder itself; with `hub` also a name `owner/model`.

    Raises:
        ModelError: there is no such model, with the near names.
    """
    name = str(name_or_path)
    folder = MODELS[name].path if name in MODELS else Path(name)
    if (folder / "config.json").is_file():
        return folder
    if hub and HUB_NAME.fullmatch(name) and not Path(name).parent.exists():
        return name
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(MODELS)}"
    raise ModelError(
        f"expected the name of a model or a folder with config.json, got {name!r}; {hint}"
    )


def weights_sha256(folder: Path) -> str:
    """Hash over the names and bytes of a folder's safetensors files."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            total.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()

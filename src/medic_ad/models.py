"""Step 4, registry of named models; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"


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

"""Step 4, registry of named models, their folders and hashes; imports nothing heavy."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from medic_ad.errors import ModelError
from medic_ad.sums import LOADED_FILES, RECORD, WEIGHT_FILES, file_sums

WEIGHTS = Path(__file__).parent / "weights"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = [*LOADED_FILES, RECORD]
UNLOADABLE = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    AttributeError,
    TypeError,
    SafetensorError,
)
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


def find_checkpoint(name_or_path: str | Path) -> str | Path:
    """The folder of a named model, the folder itself, or a name `owner/model` on the Hub.

    Raises:
        ModelError: there is no such model, with the near names.
    """
    name = str(name_or_path)
    folder = MODELS[name].path if name in MODELS else Path(name)
    if (folder / "config.json").is_file():
        return folder
    if HUB_NAME.fullmatch(name) and not Path(name).parent.exists():
        return name
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(MODELS)}"
    raise ModelError(
        f"expected the name of a model or a folder with config.json, got {name!r}; {hint}"
    )


def first_line(error: Exception) -> str:
    """What an error says first, without its full stop; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def one_sentence(path: str | Path) -> Iterator[None]:
    """What the libraries say of a checkpoint that does not load, as a `ModelError`."""
    # not above: `medic-ad --help` would wait for them; whoever loads a checkpoint has them
    from huggingface_hub.errors import StrictDataclassError
    from jinja2 import TemplateError

    try:
        yield
    except (*UNLOADABLE, StrictDataclassError, TemplateError) as error:
        raise ModelError(
            f"expected a checkpoint that loads in {path}, but: {first_line(error)}; give a folder "
            "with config.json, safetensors that fit it, and a processor"
        ) from error


def checkpoint_folder(name_or_path: str | Path) -> Path:
    """The folder of what `find_checkpoint` finds; a model of the Hub is fetched into its cache.

    Raises:
        ModelError: there is no such model here, and the Hub gives none.
    """
    found = find_checkpoint(name_or_path)
    if isinstance(found, Path):
        return found
    from huggingface_hub import snapshot_download  # slow to import, and needed for the Hub alone

    try:
        return Path(snapshot_download(found, allow_patterns=HUB_FILES))
    except UNLOADABLE as error:
        raise ModelError(
            f"expected a folder with config.json or a model of the Hub, got {found!r}: there is no "
            f"such folder, and of the Hub: {first_line(error)}; correct it, or fetch the model"
        ) from error


def weights_sha256(folder: Path) -> str:
    """Hash over the names and bytes of a folder's safetensors files."""
    total = hashlib.sha256()
    for name, digest in file_sums(folder, WEIGHT_FILES).items():
        total.update(name.encode() + bytes.fromhex(digest))
    return total.hexdigest()

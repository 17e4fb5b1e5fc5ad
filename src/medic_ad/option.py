"""Commands: a setting with its default and its help, as a field of a dataclass."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, text: str) -> Any:
    """A field of which the command line makes an option."""
    return field(default=default, metadata={"help": text})

"""Evaluation: progress bars on stderr, so that standard output stays what was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
LEAST = 3  # shorter work shows no bar


def bar(items: Iterable[T], words: str, total: int | None = None) -> Iterable[T]:
    """The items, one after the other, with a bar where there are many and a screen to show it."""
    count = len(items) if isinstance(items, Sequence) else total
    console = Console(stderr=True)
    quiet = not console.is_terminal or (count is not None and count < LEAST)
    return track(items, words, count, console=console, transient=True, disable=quiet)

"""Error messages are one sentence: what was expected, what came, what to do."""

from __future__ import annotations

import re

import pytest

from medic_ad.errors import MedicADError


def said(caught: pytest.ExceptionInfo[MedicADError]) -> tuple[str, str, str]:
    """The three parts of a message, after checking that it is one sentence of that form."""
    text = str(caught.value)
    assert "\n" not in text
    match = re.fullmatch(r"(?:.*?: )?expected (.+?), came (.+); (.+)\.", text)
    assert match is not None, text
    return match[1], match[2], match[3]

"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(os.environ.get("MEDIC_AD_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data sets that lies beside a developer's checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data sets are not on this machine ({SHARED_DATA} is absent)")
    return SHARED_DATA

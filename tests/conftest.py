"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from medic_ad.train.render import Rendered

SHARED_DATA = Path(os.environ.get("MEDIC_AD_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data sets that lies beside a developer's checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(
            f"real data sets are not on this machine ({SHARED_DATA} is absent); developers have "
            "them beside their checkout, or where MEDIC_AD_SHARED says"
        )
    return SHARED_DATA


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Table of the tiny training set."""
    import tiny  # here, since not every test loads torch

    return tiny.table(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def rendered(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Its train split, rendered."""
    import tiny

    from medic_ad.train.render import render
    from medic_ad.train.run import split

    return render(split(str(data), "train"), tiny.SIDE, tmp_path_factory.mktemp("cache"), workers=1)

"""The scripts of runs/: what the chest refit draws, and that every script names real commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from medic_ad.cli_stages import EVALUATE, TRAIN

RUNS = Path(__file__).parents[1] / "runs"


@pytest.fixture(scope="module")
def chest_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chest_table", RUNS / "chest_table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chest() -> tuple[np.ndarray, np.ndarray]:
    """A made radiograph: dark air around a bright body with two dark lungs, which are returned."""
    y, x = np.mgrid[-1:1:200j, -1:1:240j]
    body = (x / 0.9) ** 2 + (y / 1.3) ** 2 < 1
    air = np.zeros(body.shape, bool)
    for middle in (-0.42, 0.42):
        air |= ((x - middle) / 0.28) ** 2 + (y / 0.6) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 0.01, body.shape)
    grey = np.where(air, 0.3, np.where(body, 0.8, 0.05)) + noise
    return grey.clip(0, 1), air


def test_opacities_lie_in_the_lungs_and_are_denser(chest_table: ModuleType) -> None:
    grey, air = chest()
    room = chest_table.lungs(grey)
    assert (room & air).sum() / (room | air).sum() > 0.8  # the air around the body is no lung
    near = ndimage.binary_dilation(air, iterations=24)
    found = 0
    for seed in range(20):
        drawn, mask = chest_table.with_opacities(grey, room, np.random.default_rng(seed))
        assert drawn.min() >= 0 and drawn.max() <= 1
        np.testing.assert_array_equal(drawn[~near], grey[~near])
        found += bool(mask.any())
        if mask.any():
            assert near[mask].all()
            assert (drawn - grey)[mask].mean() > 0.05 > abs((drawn - grey)[~near].mean())
    assert found >= 18


@pytest.mark.parametrize("name", ["nano.sh", "chest.sh"])
def test_a_script_is_sound_and_names_real_commands(name: str) -> None:
    subprocess.run(["bash", "-n", RUNS / name], check=True)
    text = (RUNS / name).read_text()
    trained = re.findall(r"^(?:train|stage \w+ medic-ad train) (\w+)", text, re.MULTILINE)
    measured = re.findall(r"medic-ad evaluate (\w+)", text)
    assert trained == list(TRAIN) and set(measured) <= set(EVALUATE) and measured

"""`runs/paper.sh` from end to end on tiny copies of the paper's sets and a tiny backbone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import paper_cases
import pytest

from medic_ad.data.registry import COMBINATIONS
from medic_ad.data.sample import read_samples

SCRIPT = Path(__file__).parents[1] / "runs/paper.sh"
TABLES = 7  # of the three stages, and four that are only measured
MEASUREMENTS = ("paper", "detect", "localise", "stage-1/language", "stage-2/language")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    paper_cases.paper(folder / "sets")
    paper_cases.backbone(folder)
    return folder


def run(root: Path) -> str:
    """What the script prints; the package is that of this checkout."""
    settings = dict(
        BASE=str(root / "base"), BUILD=str(root / "build"), STEPS="1", BATCH="2", BATCHES="1",
        PROCESSES="1",
    )  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(SCRIPT), str(root / "sets")],
        env={**os.environ, **settings, "PATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_recipe_runs_from_published_layouts_to_figures(root: Path) -> None:
    run(root)
    build = root / "build"
    tables = list((build / "tables").glob("*.parquet"))
    assert len(tables) == TABLES
    for stage in ("detect", "compare", "explain"):
        sources = {s.source for s in read_samples(build / f"tables/paper_{stage}.parquet")}
        assert sources == set(COMBINATIONS[f"paper_{stage}"])
        record = json.loads((build / stage / f"{stage}.run.json").read_text())
        assert record["arguments"]["attention"] == record["attention"] == "sdpa"
        assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]
    assert (build / "medic-ad/model.safetensors").is_file()
    for part in MEASUREMENTS:
        [figures] = (build / "evaluate").glob(f"{part}/figures.json")
        assert json.loads(figures.read_text())
    again = run(root)
    assert again.count("done before") == again.count("== ") > TABLES + 5

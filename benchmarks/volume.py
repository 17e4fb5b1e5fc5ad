"""Time and peak memory of whole volumes, as JSON: `python benchmarks/volume.py [MODEL]`.

512 slices of 256 x 256 and 128 of them are read alone, which gives the memory that one slice more
takes above the volume and its heatmap; two dates of 256 x 256 x 160 are read, aligned and compared.
Each is a `medic-ad read` in a new process. The volumes are the MNI152 template on those grids; the
second date lies elsewhere in the scanner. Needs the extra `demo`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medic_ad.data.acquire import Acquisition, acquire, draw_motion
from medic_ad.data.sets import mni152
from medic_ad.evaluate.card.speed import watched
from medic_ad.readers import read_image

LONG, SHORT, PAIR = (512, 256, 256), (128, 256, 256), (160, 256, 256)  # slices, rows, columns
ARRAYS_MB = 2 * 4 * LONG[1] * LONG[2] / 1e6  # of a slice: volume and heatmap in float32
SHIFT_MM, TURN_DEG = 8.0, 5.0
AIM_MB, AIM_SECONDS = 2000, 120


def made(folder: Path) -> dict[str, Path]:
    """The template on these grids, as NIfTI files of whole numbers."""
    template = read_image(mni152.samples()[0].image, modality="MR", body_part="BRAIN")
    assert template.affine is not None
    rng = np.random.default_rng(0)
    centre = (template.affine @ np.append((np.array(template.grid) - 1) / 2, 1))[:3]
    motion = draw_motion(rng, centre, SHIFT_MM, TURN_DEG)
    paths = {}
    for name, grid, pose in (
        ("long", LONG, np.eye(4)),
        ("short", SHORT, np.eye(4)),
        ("a", PAIR, np.eye(4)),
        ("b", PAIR, motion),
    ):
        steps = np.array(template.grid) / np.array(grid)
        affine = template.affine @ np.diag([*steps, 1.0])
        affine[:3, 3] += template.affine[:3, :3] @ ((steps - 1) / 2)
        seen = acquire(
            template.pixels, template.affine, Acquisition(pose, affine, grid, noise=0.01), rng
        )
        grey = np.round(1000 * seen / seen.max()).astype(np.int16)
        file = nibabel.Nifti1Image(grey, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
        file.header.set_xyzt_units("mm")
        paths[name] = folder / f"{name}.nii"
        nibabel.save(file, paths[name])
    return paths


def read(folder: Path, name: str, model: str, *files: str) -> dict[str, Any]:
    """Seconds and peak memory of one `medic-ad read` with its report, and what it said."""
    command = [sys.executable, "-m", "medic_ad.cli", "read", *files, "--model", model]
    command += ["--modality", "MR", "--body-part", "BRAIN", "--out", str(folder / name)]
    seconds, peak = watched(command, f"medic-ad read {name}")
    said = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    change = said["change"] and said["change"]["label"]  # out of scope would be quick
    return {
        "seconds": seconds,
        "peak_memory_mb": peak,
        "decision": said["decision"],
        "change": change,
    }


def main(model: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {key: str(path) for key, path in made(folder).items()}
        long = read(folder, "slices", model, files["long"])
        short = read(folder, "fewer", model, files["short"])
        pair = read(folder, "pair", model, files["b"], "--prior", files["a"])
    slope = (long["peak_memory_mb"] - short["peak_memory_mb"]) / (LONG[0] - SHORT[0])
    return {
        "slices": {"grid": LONG, "aim_mb": AIM_MB, **long},
        "fewer_slices": {"grid": SHORT, **short},
        "mb_a_slice_above_arrays": slope - ARRAYS_MB,
        "pair": {"grid": PAIR, "aim_seconds": AIM_SECONDS, **pair},
        "model": model,
        "cpu_count": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit("usage: python benchmarks/volume.py [MODEL]")
    print(json.dumps(main(sys.argv[1] if len(sys.argv) == 2 else "nano"), indent=1))

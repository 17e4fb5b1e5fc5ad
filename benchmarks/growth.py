"""How reading grows with images a vision pass, slices of a volume and dates of a study.

`python benchmarks/growth.py [MODEL] [ROUNDS]`; nano and 5 when not given. Slices are of 256 x 256.
Needs the extra `demo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rounds import in_turns, machine, spread

from medic_ad.load import load_model
from medic_ad.look import look, sweep
from medic_ad.road import read
from medic_ad.study import Study, read_study

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from road_cases import planted, write_nifti  # noqa: E402

IMAGES, SLICES, DATES = (1, 4, 16, 64), (16, 64, 256), (1, 2, 4)
SIDE = 256


def dates(folder: Path, count: int) -> Study:
    """A study of real anatomy, in scope, with `count - 1` priors; sizes are known on every date."""
    made = planted()
    paths = [folder / f"{count}-{number}.nii" for number in range(count)]
    for number, path in enumerate(paths):
        write_nifti(path, made.current if number == count - 1 else made.prior)
    return read_study(paths[-1], paths[:-1] or None, "MR", "BRAIN")


def main(name: str = "nano", rounds: int = 5) -> dict[str, object]:
    model = load_model(name, "cpu")
    rng = np.random.default_rng(0)
    volume = rng.random((max(SLICES), SIDE, SIDE), np.float32)
    canvases = torch.rand(max(IMAGES), model.config.image_size, model.config.image_size)
    with tempfile.TemporaryDirectory() as temporary:
        studies = {n: dates(Path(temporary), n) for n in DATES}
    cases = {
        **{f"images {n}": partial(look, model, canvases[:n]) for n in IMAGES},
        **{
            f"slices {n}": partial(sweep, model, list(volume[:n]), [(0.0, 1.0)] * n) for n in SLICES
        },
        **{f"dates {n}": partial(read, studies[n], model) for n in DATES},
    }
    seconds = in_turns(cases, rounds)
    return {
        "model": name,
        "ms": {case: spread([1000 * s for s in each]) for case, each in seconds.items()},
        "ms_each": {
            case: spread([1000 * s / int(case.split()[1]) for s in each])["median"]
            for case, each in seconds.items()
        },
        **machine(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python benchmarks/growth.py [MODEL] [ROUNDS]")
    print(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:])), indent=1))  # type: ignore[arg-type]

"""What a study costs in a batch, and how long the model waits for the disk.

`python benchmarks/batch.py [STUDIES] [MODEL]`; 64 and nano when not given. Studies are slices of
the MNI152 template as PNG files. Each is read from disk alone, then by the model alone, then by
`medic-ad batch` in this process, which does the first ahead in a thread. Needs the extras `batch`
and `demo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image
from rounds import machine, spread

from medic_ad.batch.run import BatchArguments, run_batch
from medic_ad.data.sets import mni152
from medic_ad.load import load_model
from medic_ad.readers import read_image
from medic_ad.road import looked_slices, read
from medic_ad.study import read_study

KIND = ("MR", "BRAIN")


def pictures(folder: Path, studies: int) -> list[Path]:
    """Slices of the template that hold tissue, as many as asked for."""
    volume = read_image(mni152.samples()[0].image, *KIND).slices()
    paths = []
    for number, index in enumerate(islice(cycle(looked_slices(volume, 0.0)), studies)):
        grey = np.rint(255 * volume[index] / volume.max()).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{number:05d}.png")
        Image.fromarray(grey).save(paths[-1])
    return paths


def main(studies: int = 64, name: str = "nano") -> dict[str, object]:
    model = load_model(name, "cpu")
    disk, work = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        folder.mkdir()
        for path in pictures(folder, studies):
            start = time.process_time()
            study = read_study(path, None, *KIND)
            disk.append(time.process_time() - start)
            start = time.process_time()
            decision = read(study, model).decision
            if decision != "out_of_scope":  # which is quick
                work.append(time.process_time() - start)
        start, wall = time.process_time(), time.perf_counter()
        run_batch(
            BatchArguments(str(folder), str(out), device="cpu", modality="MR", body_part="BRAIN")
        )
        whole, wall = time.process_time() - start, time.perf_counter() - wall
        size = {
            part: sum(f.stat().st_size for f in (out / part).iterdir()) / studies
            for part in ("results", "heatmaps")
        }
    return {
        "studies": studies,
        "in_scope": len(work),
        "disk_ms": spread([1000 * s for s in disk]),
        "model_ms": spread([1000 * s for s in work]),
        "batch_processor_ms_a_study": 1000 * whole / studies,
        "batch_wall_ms_a_study": 1000 * wall / studies,
        "bytes_a_study": size,
        **machine(),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python benchmarks/batch.py [STUDIES] [MODEL]")
    given = sys.argv[1:2]
    print(json.dumps(main(*map(int, given), *sys.argv[2:]), indent=1))  # type: ignore[arg-type]

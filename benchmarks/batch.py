"""What a study costs in a batch, and how long the model waits for the disk.

`python benchmarks/batch.py [STUDIES] [MODEL] [DEVICE]`; 64, nano and cpu when not given. Studies
are slices of the MNI152 template as PNG files. Each is read from disk alone, then by the model
alone, then one after another with the next ones opened ahead in a thread, as a batch does it: here
the share of the wall time is taken in which the model waits. Last `medic-ad batch` in this process.
Needs the extras `batch` and `demo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image
from rounds import machine, spread

from medic_ad import look
from medic_ad.batch.run import BatchArguments, run_batch
from medic_ad.batch.shard import ahead
from medic_ad.data.sets import mni152
from medic_ad.load import Model, load_model
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


class Watch:
    """Wall seconds spent in calls of a function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, call: Callable) -> Callable:
        """The same function, watched."""

        def watched(*given: object, **own: object) -> object:
            start = time.perf_counter()
            try:
                return call(*given, **own)
            finally:
                self.seconds += time.perf_counter() - start

        return watched


def waiting(model: Model, paths: list[Path]) -> dict[str, float]:
    """Shares of the wall time of reading studies one by one, the next ones opened ahead.

    `disk`: the model's thread waits for a study that is still being read. `fit`: it brings slices
    to the model's canvas itself. All the while a GPU has nothing to do.
    """
    disk, fit = Watch(), Watch()
    plain = look.fit_square
    look.fit_square = fit.over(plain)
    start = time.perf_counter()
    try:
        for _, study in ahead(paths, lambda path: read_study(path, None, *KIND)):
            read(disk.over(study.result)(), model)
    finally:
        look.fit_square = plain
    wall = time.perf_counter() - start
    return {"disk": disk.seconds / wall, "fit": fit.seconds / wall}


def main(studies: int = 64, name: str = "nano", device: str = "cpu") -> dict[str, object]:
    model = load_model(name, device)
    disk, work = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        folder.mkdir()
        paths = pictures(folder, studies)
        for path in paths:
            start = time.process_time()
            study = read_study(path, None, *KIND)
            disk.append(time.process_time() - start)
            start = time.process_time()
            decision = read(study, model).decision
            if decision != "out_of_scope":  # which is quick
                work.append(time.process_time() - start)
        waits = waiting(model, paths)
        start, wall = time.process_time(), time.perf_counter()
        run_batch(
            BatchArguments(
                str(folder), str(out), "local", name, device, modality=KIND[0], body_part=KIND[1]
            )
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
        "model_waits": {**waits, "share": sum(waits.values())},
        "batch_processor_ms_a_study": 1000 * whole / studies,
        "batch_wall_ms_a_study": 1000 * wall / studies,
        "bytes_a_study": size,
        **machine(model.device.type),
    }


if __name__ == "__main__":
    if len(sys.argv) > 4:
        sys.exit("usage: python benchmarks/batch.py [STUDIES] [MODEL] [DEVICE]")
    given = sys.argv[1:2]
    print(json.dumps(main(*map(int, given), *sys.argv[2:]), indent=1))  # type: ignore[arg-type]

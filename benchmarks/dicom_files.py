"""Read every file of a folder: a table of read or refused, and the peak of memory.

python benchmarks/dicom_files.py FOLDER > table.md
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

from medic_ad.errors import MedicADError
from medic_ad.readers import read_image


def main() -> int:
    folder = Path(sys.argv[1])
    counts: Counter[str] = Counter()
    warnings.simplefilter("ignore")
    sys.stdout.write("| file | outcome | ms | what |\n|---|---|---|---|\n")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        began = time.perf_counter()
        try:
            image = read_image(path)
            outcome, what = "read", f"{image.modality} {' x '.join(map(str, image.grid))}"
        except MedicADError as error:
            outcome, what = "clear error", str(error).removeprefix(f"{path}: ")
        except Exception as error:  # what must not happen, to be counted
            outcome, what = "traceback", f"{type(error).__name__}: {error}"
        counts[outcome] += 1
        spent = 1000 * (time.perf_counter() - began)
        sys.stdout.write(f"| {path.relative_to(folder)} | {outcome} | {spent:.0f} | {what} |\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    words = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    sys.stdout.write(f"\n{counts.total()} files: {words}; peak memory {peak:.0f} MB\n")
    return int(counts["traceback"] > 0)


if __name__ == "__main__":
    sys.exit(main())

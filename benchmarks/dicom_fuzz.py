"""Damage DICOM files at random: each must be read or refused by the one clear error.

    python benchmarks/dicom_fuzz.py [--cases 50000] [--seed 0] [FOLDER ...]

Files are taken from the folders, or from those that pydicom brings. hypothesis draws the file and
the damage; each case is read in a process of its own pool, so that a crash of a decoder is seen and
counted too. A case that takes longer than its limit ends its process by the system's alarm, which
no reader and no decoder can take for damage of the file. Exit status 1 when anything but
`MedicADError` came, a case hung, or memory went above the cap.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

import pydicom
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from medic_ad.errors import MedicADError
from medic_ad.readers import read_image

MAX_FILE_BYTES = 200_000
MEMORY_CAP_MB = 2000
SECONDS = 20  # for one case
CASES_A_PROCESS = 2000

damage = st.lists(
    st.tuples(
        st.sampled_from(("replace", "bit", "delete", "insert", "repeat", "truncate")),
        st.floats(0, 1, exclude_max=True),
        st.integers(1, 64),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, steps: list[tuple[str, float, int, bytes]]) -> bytes:
    """A file after some damage; half of it strikes the header, in the first 2 kB."""
    out = bytearray(data)
    for kind, place, length, value in steps:
        span = min(len(out), 2048) if length % 2 else len(out)
        at = int(place * span)
        if kind == "replace":
            out[at : at + len(value)] = value
        elif kind == "bit" and out:
            out[at] ^= 1 << (length % 8)
        elif kind == "delete":
            del out[at : at + length]
        elif kind == "insert":
            out[at:at] = value
        elif kind == "repeat":
            out[at:at] = out[at : at + length]
        elif kind == "truncate" and length > 48:
            del out[at:]
    return bytes(out)


def work(files: list[Path], cases: int, start: int, folder: Path) -> int:
    """Read cases in this process; the case at hand lies in `folder` until it is done."""
    counts: Counter[str] = Counter()
    samples = [file.read_bytes() for file in files]
    path = folder / "case.dcm"
    warnings.simplefilter("ignore")

    @seed(start)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(range(len(samples))), damage)
    def one(number: int, steps: list[tuple[str, float, int, bytes]]) -> None:
        path.write_bytes(damaged(samples[number], steps))
        signal.alarm(SECONDS)
        try:
            read_image(path)
            counts["read"] += 1
        except MedicADError as error:
            text = str(error)
            good = text.startswith(str(path)) and "expected" in text and "\n" not in text
            counts["refused" if good else "unclear"] += 1
            if not good:
                sys.stdout.write(f"unclear, {files[number].name}: {text!r}\n")
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of a decoder written in Rust is no Exception
            counts["crashed"] += 1
            kept = folder.parent / f"crash-{start}-{counts['crashed']}.dcm"
            kept.write_bytes(path.read_bytes())
            sys.stdout.write(f"{files[number].name} -> {kept}\n{traceback.format_exc(limit=-4)}\n")
        finally:
            signal.alarm(0)

    one()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(" ".join(f"{k}={v}" for k, v in counts.items()) + f" peak={peak:.0f}\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    own = parser.parse_args()
    folders = own.folders or [Path(pydicom.__file__).parent / "data" / "test_files"]
    found = sorted(f for folder in folders for f in folder.rglob("*") if f.is_file())
    files = [f for f in found if 0 < f.stat().st_size <= MAX_FILE_BYTES]
    if own.worker is not None:
        return work(files, own.cases, own.seed, own.worker)
    counts: Counter[str] = Counter()
    peak, began = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, own.cases, CASES_A_PROCESS):
            cases = min(CASES_A_PROCESS, own.cases - start)
            words = ["--cases", cases, "--seed", own.seed + start, "--worker", folder, *folders]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            *said, last = done.stdout.splitlines() or [""]
            sys.stdout.writelines(f"{line}\n" for line in said)
            if done.returncode:
                end = "hung" if done.returncode == -signal.SIGALRM else "died"
                counts[end] += 1
                kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / "case.dcm"
                kept.write_bytes((Path(folder) / "case.dcm").read_bytes())
                sys.stdout.write(f"a process {end} ({done.returncode}) over {kept}\n")
                continue
            figures = dict(item.split("=") for item in last.split())
            peak = max(peak, float(figures.pop("peak")))
            counts.update({name: int(n) for name, n in figures.items()})
    sys.stdout.write(
        f"{sum(counts.values())} cases of {len(files)} files in {time.monotonic() - began:.0f} s: "
        f"{counts['read']} read, {counts['refused']} refused, {counts['unclear']} unclear, "
        f"{counts['crashed']} crashed, {counts['died']} died, {counts['hung']} hung, "
        f"peak {peak:.0f} MB\n"
    )
    bad = sum(counts[name] for name in ("unclear", "crashed", "died", "hung"))
    return int(bad > 0 or peak > MEMORY_CAP_MB)


if __name__ == "__main__":
    sys.exit(main())

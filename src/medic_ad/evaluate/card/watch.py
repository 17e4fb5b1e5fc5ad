"""Evaluation: run a command, and say its seconds and the peak of its memory.

Run as a script, in a process of its own: a process starts with the peak of the one that it was
started from, so a small one, which imports nothing of this package, stands between.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time


def watch(command: list[str]) -> tuple[float, int, int]:
    """Seconds, peak memory as the platform counts it, and exit status of a command."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - start, usage.ru_maxrss, child.returncode


def main() -> int:
    """One line on stdout: what `watch` measured of the command that is given in words."""
    seconds, peak, status = watch(sys.argv[1:])
    sys.stdout.write(f"{seconds} {peak}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())

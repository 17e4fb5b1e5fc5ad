"""Time and memory of one read, as JSON: `python benchmarks/read.py IMAGE [MODEL]`."""

from __future__ import annotations

import json
import sys

from medic_ad.evaluate.card.speed import measure_speed

if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python benchmarks/read.py IMAGE [MODEL]")
    figures = measure_speed(sys.argv[2] if len(sys.argv) == 3 else "nano", sys.argv[1])
    print(json.dumps(figures, indent=1))

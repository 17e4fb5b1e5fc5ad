"""`medic-ad evaluate ablations`: small trainings with one part changed, over several seeds.

Every run has the same stated budget and is kept when it is done. Judged on validation, so that the
test split stays closed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from medic_ad.evaluate.ablations import bare
from medic_ad.evaluate.ablations.bench import AblationsArguments, Bench
from medic_ad.evaluate.ablations.rows import BEFORE, COMPARE, DETECT, EXPLAIN, PARTS, ROWS, Row
from medic_ad.evaluate.figures.bootstrap import LEVEL, Figure
from medic_ad.evaluate.material.made_pairs import BLEND
from medic_ad.evaluate.material.twins import METHOD
from medic_ad.evaluate.output.finish import record_of_table
from medic_ad.evaluate.output.page import Measured, show, write
from medic_ad.evaluate.output.record import provenance
from medic_ad.evaluate.predictions.bars import bar
from medic_ad.evaluate.predictions.store import Part
from medic_ad.load import load_model

STAGES = {"stages 1": DETECT, "stages 1+2": COMPARE, "stages 1+2+3": EXPLAIN}
Runs = dict[str, list[dict[str, Any]]]  # row -> what each seed's run says of itself


def make_all(bench: Bench) -> Runs:
    """Train and judge what lacks; seed by seed, so that every row is there early."""
    found: Runs = {row.name: [] for row in ROWS}
    done: dict[tuple[str, int], Path] = {}
    todo = [(row, seed) for seed in range(bench.arguments.seeds) for row in ROWS]
    for row, seed in bar(todo, "ablations"):
        before = done[BEFORE[row.stage], seed] if row.stage in BEFORE else None
        folder = done[row.name, seed] = bench.run(row, seed, before, row.name in STAGES.values())
        found[row.name].append(json.loads((folder / "figures.json").read_text()))
    return found


def over_seeds(name: str, of: str, values: Sequence[float], n: int, split: str) -> Figure:
    """Mean over the seeds, Student's interval of it, and every seed's value."""
    numbers = np.array(values, float)
    half = (
        student.ppf((1 + LEVEL) / 2, len(numbers) - 1) * numbers.std(ddof=1) / len(numbers) ** 0.5
    )
    return Figure(
        name=name,
        of=of,
        value=float(numbers.mean()),
        n=n,
        unit="seed",
        units=len(numbers),
        split=split,
        seed=0,
        interval=(float(numbers.mean() - half), float(numbers.mean() + half)),
        per_unit={str(k): float(v) for k, v in enumerate(numbers)},
    )


def figures_of(found: Runs, rows: Sequence[Row], words: str) -> list[Figure]:
    """Each row's figures and, beside another row, the paired difference over the seeds."""
    out, stage = [], rows[0].stage

    def values(row: str, name: str) -> list[float]:
        return [made["figures"][stage][name][0] for made in found[row]]

    for name, (_, n) in found[rows[0].name][0]["figures"][stage].items():
        for row in rows:
            out.append(over_seeds(name, row.name, values(row.name, name), n, words))
            if row.against != row.name:
                both = zip(values(row.name, name), values(row.against, name), strict=True)
                gap = [a - b for a, b in both]
                out.append(over_seeds(name, f"{row.name} - {row.against}", gap, n, words))
    return out


def stages(found: Runs, words: str) -> Part:
    """What the model can do after each stage, as in the paper's table: 1, 1+2, 1+2+3."""
    figures = []
    for title, row in STAGES.items():
        for stage, judged in found[row][0]["figures"].items():
            for name, (_, n) in judged.items():
                values = [made["figures"][stage][name][0] for made in found[row]]
                figures.append(over_seeds(name, title, values, n, words))
    note = (
        "The references, each trained on the one before with the same seed, each judged anew at "
        "all that it has learned. A stage leaves those before it frozen."
    )
    return Part("Stages", [note], figures)


def budget(arguments: AblationsArguments, found: Runs, base_seconds: float) -> str:
    """What the trainings were allowed, and what they and the base of some took."""
    spent = [made["cpu_seconds"] for runs in found.values() for made in runs]
    steps = {row: int(np.median([made["steps"] for made in runs])) for row, runs in found.items()}
    return (
        f"{len(ROWS)} rows of {arguments.seeds} seeds; every training ends at "
        f"{arguments.cpu_seconds:g} CPU seconds of its process, all threads together, and had "
        f"{min(steps.values())} to {max(steps.values())} steps of {arguments.batch} scans or pairs "
        f"in them. Measured: {np.median(spent):.1f} CPU seconds a run, at most {max(spent):.1f}. "
        f"The base without masks and labels is none of them: {arguments.base_steps} steps for its "
        f"tower, as many for its language model, {base_seconds / 60:.1f} CPU minutes since they "
        "were last started. Intervals are Student's, over the seeds; n counts the judged images or "
        "pairs."
    )


def main(arguments: AblationsArguments) -> Path:
    """Train and judge what lacks, then write the table."""
    model = load_model(arguments.model)
    bench = Bench(arguments, model)
    rendered, out = bench.rendered, Path(arguments.out)
    found = make_all(bench)
    words = f"{Path(arguments.data).stem} val"
    judged_on = (
        f"Judged on {len(rendered)} lesions of val, their twins and shams ({METHOD}) and pairs "
        f"made of them ({BLEND} blends, registered): methods and donors that training never used. "
        "One half of the images fits what has to be fitted, the other half is judged."
    )
    parts = []
    for title, (firsts, note) in PARTS.items():
        rows = [row for row in ROWS if row.name in firsts or row.against in firsts]
        parts.append(Part(title, [note, judged_on], figures_of(found, rows, words)))
    parts.append(stages(found, words))
    record = provenance(model, arguments) | {
        "data": record_of_table(arguments.data, "val", rendered.samples)
    }
    measured = Measured(
        stage="ablations",
        provenance=record,
        verdict=budget(arguments, found, bare.cpu_seconds(bench.bare())),
        beats_baseline=None,
        parts=parts,
        cases=[
            {
                **{name: made[name] for name in ("row", "seed", "steps", "cpu_seconds")},
                "figure": figure, "value": f"{value:.6f}", "n": n,
            }
            for runs in found.values()
            for made in runs
            for judged in made["figures"].values()
            for figure, (value, n) in judged.items()
        ],
    )  # fmt: skip
    done = write(out / "ablations", measured)
    show(measured)
    return done

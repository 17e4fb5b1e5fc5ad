"""Training data: whole groups into splits, and published splits mended where they tear one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

from medic_ad.data.duplicates import Groups
from medic_ad.data.sample import SPLITS, Sample
from medic_ad.errors import DataError

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}

File = tuple[str, int | None]  # path and slice


@dataclass(frozen=True)
class Reading:
    """What a reader found in a folder, before duplicates are looked for.

    Attributes:
        samples: with the published split, or any where `drawn`.
        drawn: there is no published split that could hold: whole groups are drawn into splits.
        grouped: groups and splits are complete as given; duplicates are counted, not joined.
        published: the samples carry a published split although it is `drawn` anew.
        notes: sentences on what was left out.
    """

    samples: list[Sample]
    drawn: bool = False
    grouped: bool = False
    published: bool = False
    notes: tuple[str, ...] = ()


def settle(
    reading: Reading, alike: list[tuple[File, File]], seed: int, where: str
) -> tuple[list[Sample], list[str]]:
    """Join what belongs together and see that no split tears it apart.

    Samples belong together that share a group, a patient of one source or a file (as image or
    prior), or hold files that are alike. A published split is kept: a sample of val or test that
    belongs to one of train is dropped, then one of val that belongs to one of test.

    Args:
        reading: the samples of one data set.
        alike: pairs of duplicates among their images and priors.
        seed: of the split, where it is drawn.
        where: name of the data set, for errors and notes.

    Returns: the samples, every one with its final group and split, and notes on what was done.

    Raises:
        DataError: too few groups for a split.
    """
    holders = _holders(reading.samples, alike)
    if reading.grouped:
        splits_of = [{reading.samples[i].split for i in holders["alike", a, b]} for a, b in alike]
        torn = sum(len(found) > 1 for found in splits_of)
        note = f"{where}: {torn} pairs lie across splits; groups and splits are as the set gives."
        return reading.samples, [note] if torn else []
    kept = list(range(len(reading.samples)))
    notes: list[str] = []
    if not reading.drawn:
        kept, notes = _mend(reading.samples, holders, where)
    groups = Groups(len(reading.samples))
    alive = set(kept)
    for rows in holders.values():
        left = sorted(alive.intersection(rows))
        for i in left[1:]:
            groups.join(left[0], i)
    members = [groups.find(i) for i in kept]
    name: dict[int, str] = {}
    for i, member in zip(kept, members, strict=True):
        own = reading.samples[i].group
        name[member] = min(name.get(member, own), own)
    splits = [reading.samples[i].split for i in kept]
    if reading.drawn:
        splits = draw_splits(members, [reading.samples[i].label for i in kept], seed, where)
        notes.append(f"{where}: split drawn by patient and duplicate group, seed {seed}.")
    if reading.drawn and reading.published:
        published = [reading.samples[i].split for i in kept]
        moved = Counter(f"{a} to {b}" for a, b in zip(published, splits, strict=True) if a != b)
        said = ", ".join(f"{n} from {way}" for way, n in sorted(moved.items()))
        notes.append(f"{where}: against the published split, {said or 'none'} moved.")
    out = [
        replace(reading.samples[i], group=name[member], split=split)
        for i, member, split in zip(kept, members, splits, strict=True)
    ]
    return out, notes


def _holders(samples: list[Sample], alike: list[tuple[File, File]]) -> dict[Hashable, set[int]]:
    """What binds samples -> the rows that it binds."""
    holders: dict[Hashable, set[int]] = defaultdict(set)
    files: dict[File, set[int]] = defaultdict(set)
    for i, sample in enumerate(samples):
        holders["group", sample.group].add(i)
        if sample.patient is not None:
            holders["patient", sample.source, sample.patient].add(i)
        for path in {sample.image, sample.prior} - {None}:
            files[str(path), sample.slice].add(i)
    for file, rows in files.items():
        holders["file", file] |= rows
    for a, b in alike:
        holders["alike", a, b] |= files[a] | files[b]
    return holders


def _mend(
    samples: list[Sample], holders: dict[Hashable, set[int]], where: str
) -> tuple[list[int], list[str]]:
    """Rows that may stay so that nothing binds two splits, and a note on the others."""
    dropped: set[int] = set()
    for strong, weak in (("train", ("val", "test")), ("test", ("val",))):
        out: set[int] = set()
        for rows in holders.values():
            left = rows - dropped
            if any(samples[i].split == strong for i in left):
                out |= {i for i in left if samples[i].split in weak}
        dropped |= out
    kept = [i for i in range(len(samples)) if i not in dropped]
    if not dropped:
        return kept, []
    counts = Counter(samples[i].split for i in dropped)
    said = " and ".join(f"{n} of {split}" for split, n in sorted(counts.items()))
    return kept, [
        f"{where}: {said} dropped: their patient, group or (nearly) the same image lies in train"
        " or test as published."
    ]


def draw_splits(members: list[int], labels: list[float], seed: int, where: str) -> list[str]:
    """Whole groups into splits of about SHARES, alike for every label, drawn by the seed."""
    unique = sorted(set(members))
    if len(unique) < len(SPLITS):
        raise DataError(
            f"{where} has {len(unique)} independent group(s) of patients and duplicates: three "
            "splits need at least 3; add patients or give the column split."
        )
    kinds = ["" if math.isnan(label) else str(label) for label in labels]
    content = {group: Counter[str]() for group in unique}
    for group, kind in zip(members, kinds, strict=True):
        content[group][kind] += 1
    wanted = {
        split: {kind: share * n for kind, n in Counter(kinds).items()}
        for split, share in SHARES.items()
    }
    order = [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
    order.sort(key=lambda group: -content[group].total())
    home: dict[int, str] = {}
    for place, group in enumerate(order):
        empty = [split for split in SPLITS if split not in home.values()]
        left = len(order) - place
        choices = empty if empty and left <= len(empty) else list(SPLITS)
        home[group] = max(
            choices,
            key=lambda split: sum(
                n * wanted[split][kind] / SHARES[split] for kind, n in content[group].items()
            ),
        )
        for kind, n in content[group].items():
            wanted[home[group]][kind] -= n
    return [home[group] for group in members]

"""Training data: the T1 template MNI152 inside the package nilearn, slices without lesion."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import brain_slices, foreground, need, volume
from medic_ad.errors import DataError

NAME = "mni152"
_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def samples(root: str | Path | None = None) -> list[Sample]:
    """All axial slices with enough brain, label 0, all in train: it is one template.

    Args:
        root: not used; the file lies in the installed package, its path is absolute.
    """
    spec = importlib.util.find_spec("nilearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{NAME} lies inside the package nilearn, which is not installed: add it.")
    path = need(Path(spec.submodule_search_locations[0]) / _FILE, "The T1 template of nilearn")
    return [
        Sample(
            image=path.as_posix(),
            slice=i,
            patient=NAME,
            group=NAME,
            split="train",
            source=NAME,
            modality="MR",
            body_part="BRAIN",
            sequence="T1",
            label=0.0,
        )
        for i in brain_slices(foreground(volume(path, "The T1 template of nilearn")))
    ]

"""What the geometry of a study's files cannot be, or does not say, is a note, and so a warning."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medic_ad.study import read_study

UNKNOWN = "is unknown: their left and right may be exchanged, which looks like change"


def volume(path: Path, seed: int = 0, posed: bool = True, mm: float = 2.0) -> Path:
    """A NIfTI file of 16 x 16 x 4 voxels, 32 mm a side, with or without an orientation."""
    voxels = np.random.default_rng(seed).normal(size=(16, 16, 4)).astype(np.float32)
    nifti = nibabel.Nifti1Image(voxels, np.diag([mm, mm, mm, 1]))
    nifti.set_sform(nifti.affine, code=int(posed))
    nifti.set_qform(nifti.affine, code=int(posed))
    nibabel.save(nifti, path)
    return path


@pytest.mark.parametrize(
    ("now", "before", "said"),
    [
        (True, True, []),
        (True, False, [f"the orientation of some of the dates {UNKNOWN}"]),
        (False, True, [f"the orientation of some of the dates {UNKNOWN}"]),
        (False, False, [f"the orientation of all dates {UNKNOWN}"]),
    ],
)
def test_volumes_of_unknown_orientation_may_be_mirrored_and_one_note_says_so(
    tmp_path: Path, now: bool, before: bool, said: list[str]
) -> None:
    current = volume(tmp_path / "now.nii", 0, now)
    priors = [volume(tmp_path / f"{n}.nii", n, before) for n in (1, 2)]
    study = read_study(current, prior=priors, modality="MR")
    assert [note for note in study.notes if "orientation" in note] == said


def test_an_impossible_field_of_view_is_noted(tmp_path: Path) -> None:
    for mm, came in ((0.001, "0.016"), (1.2, "19.2"), (200.0, "3200")):
        study = read_study(volume(tmp_path / f"{mm}.nii", mm=mm), modality="MR")
        assert study.notes == (
            f"an image is {came} mm long by its pixel spacing (expected 20 to 2000 mm): sizes may "
            "be in wrong units",
        )
    for mm in (1.25, 125.0):
        assert not read_study(volume(tmp_path / f"{mm}.nii", mm=mm), modality="MR").notes
    now, before = volume(tmp_path / "now.nii"), volume(tmp_path / "before.nii", 1, mm=0.002)
    notes = read_study(now, prior=before, modality="MR").notes
    assert sum("wrong units" in note for note in notes) == 1

"""NIfTI files that are damaged: cut off, flipped in one byte, too long, or with a wrong offset."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from test_readers_bad_input import refused

from medic_ad.errors import ReadError
from medic_ad.readers import read_image
from medic_ad.readers.nifti import PADDING


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated_nifti(tmp_path: Path, suffix: str) -> None:
    voxels = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    for part in (0.99, 0.5, 0.1):
        path = tmp_path / f"{part}{suffix}"
        path.write_bytes(whole[: int(part * len(whole))])
        expected, came, remedy = refused(path)
        assert remedy == "copy or export it again"
        if suffix == ".nii":
            assert expected == "32352 bytes of NIfTI data" and "cut off" in came
        else:
            assert expected == "a complete NIfTI file" and "EOFError" in came


def test_one_byte_of_a_packed_nifti_that_differs_is_refused_or_changes_no_voxel(
    tmp_path: Path,
) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (16, 17, 3), np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.5, 1.5, 3, 1])), tmp_path / "whole.nii.gz")
    whole = (tmp_path / "whole.nii.gz").read_bytes()
    true = read_image(tmp_path / "whole.nii.gz", modality="MR")
    path, refusals = tmp_path / "flipped.nii.gz", 0
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            image = read_image(path, modality="MR")
        except ReadError:
            refusals += 1
        else:
            assert np.array_equal(image.pixels, true.pixels), at
            assert image.spacing_mm == true.spacing_mm
    assert len(whole) > 400 and len(whole) - 30 < refusals < len(whole)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_stands_behind_the_voxels_of_a_nifti_is_damage_unless_a_few_zeros(
    tmp_path: Path, suffix: str
) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (16, 17, 3), np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "whole.nii")
    whole, path = (tmp_path / "whole.nii").read_bytes(), tmp_path / f"longer{suffix}"
    pack = gzip.compress if suffix == ".nii.gz" else bytes
    path.write_bytes(pack(whole + bytes(512)))
    true = read_image(tmp_path / "whole.nii", modality="MR")
    assert np.array_equal(read_image(path, modality="MR").pixels, true.pixels)
    for more in (b"\1", bytes(512) + b"x", bytes(PADDING + 1)):
        path.write_bytes(pack(whole + more))
        expected, came, _ = refused(path)
        assert expected == "a complete NIfTI file of 1168 bytes as its header says"
        assert came == "one that goes on behind its voxels"


@pytest.mark.parametrize("offset", [0, 351, -5])
def test_a_nifti_whose_voxels_would_begin_in_its_header_is_refused(
    tmp_path: Path, offset: int
) -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (16, 17, 3), np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[108:112] = np.float32(offset).tobytes()  # vox_offset
    (tmp_path / "a.nii").write_bytes(data)
    expected, came, _ = refused(tmp_path / "a.nii")
    assert expected == "voxels from byte 352 on" and came.endswith(f"puts them at {offset}")

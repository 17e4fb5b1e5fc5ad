"""NIfTI: every voxel keeps its place in the patient, whatever the order of the file's axes."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff

from medic_ad.image import Image
from medic_ad.readers import read_image

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def load(path: Path) -> Any:
    """nibabel's image, whose kind its types do not tell."""
    return nibabel.load(path)


def check_spacing(image: Image, expected: tuple[float, ...]) -> None:
    assert image.spacing_mm == pytest.approx(expected, rel=1e-4)


def scan(shape: tuple[int, int, int] = (18, 20, 22)) -> tuple[np.ndarray, np.ndarray]:
    """RAS voxels with a bright corner, another voxel half as bright, and an oblique matrix."""
    voxels = np.random.default_rng(0).uniform(0, 10, shape).astype(np.float32)
    voxels[0, 0, 0], voxels[3, 1, 2] = 100, 50
    affine = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.1, -0.05, 0.08) @ np.diag([0.8, 1.1, 2.5]), [-70, -95, 12]
    )
    return voxels, affine


def test_planted_corner_of_all_48_axis_orders(tmp_path: Path) -> None:
    voxels, affine = scan()
    covered, pixels = 0, None
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        turn = np.array(list(zip(order, flips, strict=True)), dtype=float)
        stored = apply_orientation(voxels, turn)
        path = tmp_path / f"{covered}.nii"
        nibabel.save(nibabel.Nifti1Image(stored, affine @ inv_ornt_aff(turn, voxels.shape)), path)
        file = load(path)
        image = read_image(path, modality="MR")
        assert image.affine is not None
        for value in (100, 50):
            at_file = np.argwhere(np.asarray(file.dataobj) == value)[0]
            ras = nibabel.affines.apply_affine(file.affine, at_file)
            at = np.argwhere(image.pixels == value)[0]
            lps = (image.affine @ [*at, 1])[:3]
            np.testing.assert_allclose(lps, ras * RAS_TO_LPS, atol=1e-3)
        # Axial as displayed: d to the head, h to the back, w to the patient's left.
        assert [int(np.argmax(np.abs(image.affine[:3, axis]))) for axis in range(3)] == [2, 1, 0]
        assert all(image.affine[2 - axis, axis] > 0 for axis in range(3))
        assert image.side_letters() == {"left": "R", "right": "L", "top": "A", "bottom": "P"}
        check_spacing(image, (2.5, 1.1, 0.8))
        assert pixels is None or np.array_equal(image.pixels, pixels)
        pixels = image.pixels
        covered += 1
    assert covered == 48


@pytest.mark.parametrize(
    ("axis", "grid", "letters"),
    [
        (2, (20, 18), "RLAP"),
        (1, (22, 18), "RLHF"),
        (0, (22, 20), "APHF"),
    ],
)
def test_lone_slice_keeps_its_plane(
    tmp_path: Path, axis: int, grid: tuple[int, int], letters: str
) -> None:
    voxels, affine = scan()
    lone = np.take(voxels, [0], axis=axis)
    nibabel.save(nibabel.Nifti1Image(lone, affine), tmp_path / "slice.nii.gz")
    image = read_image(tmp_path / "slice.nii.gz", modality="MR")
    assert image.grid == grid and not image.is_volume and image.affine is not None
    sides = image.side_letters()
    assert sides is not None
    assert "".join(sides[s] for s in ("left", "right", "top", "bottom")) == letters
    at = np.argwhere(image.pixels == 100)[0]
    lps = (image.affine @ [0, *at, 1])[:3]
    np.testing.assert_allclose(lps, affine[:3, 3] * RAS_TO_LPS, atol=1e-3)


def test_told_by_content_scaled_and_converted_to_mm(tmp_path: Path) -> None:
    voxels, affine = scan()
    file = nibabel.Nifti1Image(np.round(voxels).astype(np.int16), affine / 1000)
    file.header.set_xyzt_units("meter")
    file.header.set_slope_inter(2.0, -7.0)
    path = tmp_path / "scan.dat"
    path.write_bytes(file.to_bytes())
    image = read_image(path, modality="mr", body_part="brain")
    assert (image.modality, image.body_part) == ("MR", "BRAIN")
    check_spacing(image, (2.5, 1.1, 0.8))
    assert image.pixels.max() == 2 * 100 - 7
    assert image.source.format == "NIfTI" and "geometry converted from meter to mm" in (
        image.source.notes
    )


def test_sheared_slices_keep_the_volume_of_a_voxel_and_say_so(tmp_path: Path) -> None:
    voxels, _ = scan()
    upright = np.diag([0.8, 1.1, 2.5, 1.0])
    tilted = upright.copy()
    tilted[1, 2] = 1.0  # each slice 1 mm further back, as a gantry tilted by 22 degrees makes them
    said = {}
    for name, affine in (("upright", upright), ("tilted", tilted)):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / f"{name}.nii")
        image = read_image(tmp_path / f"{name}.nii", modality="CT")
        check_spacing(image, (2.5, 1.1, 0.8))
        said[name] = image.source.notes
    assert said == {"upright": (), "tilted": ("slices are sheared (tilted gantry)",)}


def test_nifti2_and_trailing_axis_of_one(tmp_path: Path) -> None:
    voxels, affine = scan()
    nibabel.save(nibabel.Nifti2Image(voxels[..., None], affine), tmp_path / "two.nii.gz")
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "one.nii")
    two, one = (read_image(tmp_path / n, modality="MR") for n in ("two.nii.gz", "one.nii"))
    np.testing.assert_array_equal(two.pixels, one.pixels)
    assert two.affine is not None and one.affine is not None
    np.testing.assert_allclose(two.affine, one.affine, atol=1e-4)


def test_without_sform_and_qform_the_orientation_is_unknown(tmp_path: Path) -> None:
    voxels, _ = scan()
    file = nibabel.Nifti1Image(voxels, None)
    file.header.set_zooms((0.8, 1.1, 2.5))
    nibabel.save(file, tmp_path / "scan.nii")
    image = read_image(tmp_path / "scan.nii", modality="MR")
    assert image.affine is None and not image.orientation_known
    check_spacing(image, (2.5, 1.1, 0.8))
    assert any("orientation unknown" in note for note in image.source.notes)


def test_real_volumes(shared_data: Path) -> None:
    paths = [
        shared_data / "ms_cross_sectional/patient07/FLAIR_MNI.nii.gz",
        shared_data / "ms_longitudinal/patient01/study1_FLAIR.nii.gz",
        shared_data / "ms_longitudinal/patient01/study1_FLAIR_common.nii.gz",
        shared_data / "ms_longitudinal/patient03/study2_FLAIR.nii.gz",
    ]
    for path in paths:
        image, file = read_image(path, modality="MR"), load(path)
        assert sorted(image.grid) == sorted(file.shape) and image.affine is not None
        np.testing.assert_allclose(
            sorted(image.spacing_mm or ()), sorted(file.header.get_zooms()), rtol=1e-3
        )
        assert image.side_letters() == {"left": "R", "right": "L", "top": "A", "bottom": "P"}

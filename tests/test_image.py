"""An Image is valid from birth and knows its sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sentence import said

from medic_ad.errors import MedicADError, ReadError
from medic_ad.image import Image, Source, check_grid, same_body_part, same_modality

SOURCE = Source("scan.dcm", "0" * 64, "DICOM")


def image(shape: tuple[int, ...] = (16, 20), **fields: Any) -> Image:
    return Image(np.zeros(shape, np.float32), source=SOURCE, **fields)


def test_shapes_and_slices() -> None:
    assert image().grid == (16, 20) and not image().is_volume
    assert image().slices().shape == (1, 16, 20)
    volume = image((3, 16, 20))
    assert volume.is_volume and volume.slices() is volume.pixels


@pytest.mark.parametrize(
    ("shape", "came"),
    [
        ((1, 1), "1 x 1"),
        ((15, 200), "15 x 200"),
        ((16, 8193), "16 x 8193"),
        ((0, 16, 16), "0 x 16 x 16"),
        ((9000, 8000, 8000), "576000000000 (9000 x 8000 x 8000)"),
        ((2, 2, 16, 16), "4 (2 x 2 x 16 x 16)"),
    ],
)
def test_grid_is_checked_without_pixels(shape: tuple[int, ...], came: str) -> None:
    with pytest.raises(ReadError) as caught:
        check_grid(shape, "scan.dcm")
    assert said(caught)[1] == came


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_must_be_finite(bad: float) -> None:
    pixels = np.zeros((16, 16), np.float32)
    pixels[3, 4] = pixels[5, 6] = bad
    with pytest.raises(ReadError) as caught:
        Image(pixels, source=SOURCE)
    expected, came, remedy = said(caught)
    assert expected == "finite pixel values" and came == "2 that are NaN or infinite"
    assert "replace them by numbers" in remedy


def test_fields_are_checked() -> None:
    with pytest.raises(ReadError, match="float32"):
        Image(np.zeros((16, 16)), source=SOURCE)  # type: ignore[arg-type]
    singular = np.diag([1.0, 0.0, 1.0, 1.0])
    for fields in (
        {"affine": singular},
        {"affine": np.full((4, 4), np.nan)},
        {"spacing_mm": (1.0,)},
        {"spacing_mm": (1.0, 0.0)},
        {"directions": ("L", "X")},
    ):
        with pytest.raises(MedicADError) as caught:
            image(**fields)
        said(caught)


def test_side_letters_come_from_the_affine() -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 2.0], [0, 2, 0], [3, 0, 0]])  # axial: w left, h back
    axial = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert image((4, 16, 16), affine=affine).side_letters() == axial
    affine[:3, :3] = np.array([[3.0, 0, 0], [0, 0, 2], [0, -2, 0]])  # sagittal: w back, h feet
    sagittal = {"left": "A", "right": "P", "top": "H", "bottom": "F"}
    assert image((4, 16, 16), affine=affine).side_letters() == sagittal


def test_unknown_sides_have_no_letters() -> None:
    assert image().side_letters() is None and not image().orientation_known
    radiograph = image(directions=("L", "F"))
    assert radiograph.orientation_known
    assert radiograph.side_letters() == {"left": "R", "right": "L", "top": "H", "bottom": "F"}


def test_terms_that_mean_the_same() -> None:
    assert same_body_part("HEAD", "BRAIN") and not same_body_part("HEAD", "CHEST")
    assert same_modality("CR", "DX") and not same_modality("MR", "CT")

"""PNG, JPEG and TIFF: grey values as stored, whatever the mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from medic_ad.readers import read_image

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30), dtype=np.uint16)
RGB = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_8_and_16_bits_are_kept(tmp_path: Path, name: str) -> None:
    for array in (GREY, DEEP):
        Pillow.fromarray(array).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.pixels.dtype == np.float32
        np.testing.assert_array_equal(image.pixels, array)
        assert image.modality is image.affine is image.spacing_mm is image.body_part is None


def test_told_by_content_not_by_name(tmp_path: Path) -> None:
    Pillow.fromarray(GREY).save(tmp_path / "a.png")
    renamed = (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    image = read_image(renamed, modality="MR", body_part="BRAIN")
    assert image.source.format == "PNG" and image.modality == "MR"
    np.testing.assert_array_equal(image.pixels, GREY)


def test_colour_becomes_luminance_and_says_so(tmp_path: Path) -> None:
    Pillow.fromarray(RGB).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image.pixels, RGB @ [0.299, 0.587, 0.114], atol=1e-3)
    assert any("luminance" in note for note in image.source.notes)


def test_equal_channels_are_exactly_the_grey(tmp_path: Path) -> None:
    Pillow.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, GREY)


def test_alpha_palette_and_one_bit(tmp_path: Path) -> None:
    alpha = np.full_like(GREY, 7)
    Pillow.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "rgba.png")
    Pillow.fromarray(np.dstack([GREY, alpha])).save(tmp_path / "la.png")
    Pillow.fromarray(GREY).convert("P").save(tmp_path / "p.png")
    Pillow.fromarray(GREY > 99).save(tmp_path / "1.png")
    rgba, la, palette, bit = (
        read_image(tmp_path / name) for name in ("rgba.png", "la.png", "p.png", "1.png")
    )
    np.testing.assert_allclose(rgba.pixels, RGB @ [0.299, 0.587, 0.114], atol=1e-3)
    np.testing.assert_array_equal(la.pixels, GREY)
    np.testing.assert_array_equal(palette.pixels, GREY)
    np.testing.assert_array_equal(bit.pixels, 255 * (GREY > 99))
    for image in (rgba, la):
        assert "alpha channel dropped" in image.source.notes
    assert "palette applied" in palette.source.notes


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # stored turned: show it a quarter turn clockwise
    Pillow.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, np.rot90(GREY, -1))
    assert any("EXIF" in note for note in image.source.notes)


def test_white_is_zero_16_bit_tiff_is_inverted(tmp_path: Path) -> None:
    Pillow.fromarray(DEEP).save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, 65535 - DEEP)


def test_real_pictures_of_every_set(shared_data: Path) -> None:
    """The first and last picture of each folder, against Pillow's own conversion."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(shared_data.rglob("*")):
        if path.suffix in (".png", ".jpg"):
            folders.setdefault(path.parent, []).append(path)
    covered = 0
    for paths in folders.values():
        for path in {paths[0], paths[-1]}:
            image = read_image(path)
            with Pillow.open(path) as picture:
                expected = np.asarray(picture.convert("RGB").convert("L"), dtype=np.float32)
            np.testing.assert_allclose(image.pixels, expected, atol=1)
            covered += 1
    assert len(folders) >= 14 and covered == 2 * len(folders)

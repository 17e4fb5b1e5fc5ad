"""Bad input: one sentence each, that says what was expected, what came and what to do."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import MPEG2MPML, ComputedRadiographyImageStorage
from sentence import said

from medic_ad.errors import ReadError, StudyError
from medic_ad.readers import read_image

KINDS = "a DICOM, NIfTI, PNG, JPEG or TIFF file"
GREY = np.random.default_rng(0).integers(0, 256, (64, 80), dtype=np.uint8)


def refused(path: Path, modality: str | None = "MR") -> tuple[str, str, str]:
    with pytest.raises(ReadError) as caught:
        read_image(path, modality=modality)
    assert str(path) in str(caught.value)
    return said(caught)


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.png") == (
        f"{KINDS} or a series folder",
        "a path that does not exist",
        "check the spelling",
    )


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    assert refused(tmp_path / "a.dcm") == (KINDS, "an empty file", "copy it again")


def test_text_file_renamed_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("patient,label\n1,0\n")
    assert refused(tmp_path / "a.png") == (
        KINDS,
        "a text file",
        "convert it to one of these formats",
    )


def test_other_binary_and_other_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(b"BM\0\x01" + bytes(600))
    assert refused(tmp_path / "a.bmp")[1].startswith("a file that starts with the bytes 42 4d")
    packer = zlib.compressobj(wbits=31)
    (tmp_path / "a.gz").write_bytes(packer.compress(b"not a scan " * 99) + packer.flush())
    assert refused(tmp_path / "a.gz")[0] == KINDS


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "693_J2KI.dcm"])
def test_truncated_dicom(tmp_path: Path, name: str) -> None:
    whole = Path(str(get_testdata_file(name))).read_bytes()
    for part in (0.95, 0.7, 0.4, 0.1):
        path = tmp_path / f"{part}.dcm"
        path.write_bytes(whole[: int(part * len(whole))])
        expected, _, remedy = refused(path)
        assert expected == "a DICOM image" or expected.startswith("complete")
        assert "copy" in remedy


def test_truncated_pixel_data_names_the_bytes(tmp_path: Path) -> None:
    whole = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:-5000])
    expected, came, remedy = refused(tmp_path / "a.dcm")
    assert expected == "complete pixel data (Explicit VR Little Endian)"
    assert "less than expected" in came and remedy == "copy or export the file again"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_truncated_picture(tmp_path: Path, suffix: str) -> None:
    Pillow.fromarray(GREY).save(tmp_path / f"whole{suffix}")
    whole = (tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
    expected, came, remedy = refused(tmp_path / f"half{suffix}")
    assert expected.startswith("a complete ") and "cannot be decoded" in came
    assert remedy == "copy or export it again"


def test_dicom_without_pixels() -> None:
    path = Path(str(get_testdata_file("rtplan.dcm")))
    assert refused(path) == (
        "a DICOM image",
        "RT Plan Storage without pixel data",
        "give a file that holds an image, or copy it again if it was cut off",
    )
    segmentation = Path(str(get_testdata_file("liver_1frame.dcm")))
    assert refused(segmentation)[:2] == (
        "a picture of a patient",
        "a segmentation (Segmentation Storage)",
    )


def test_transfer_syntax_without_decoder_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "medic_ad.readers.dicom_pixels.get_decoder",
        lambda uid: SimpleNamespace(is_available=False, available_plugins=()),
    )
    names = {
        "MR_small_jpeg_ls_lossless.dcm": ("JPEG-LS Lossless", "pyjpegls"),
        "SC_rgb_jpeg_gdcm.dcm": ("JPEG Lossless", "pylibjpeg-libjpeg"),
        "MR_small_jp2klossless.dcm": ("JPEG 2000", "pylibjpeg-openjpeg"),
    }
    for name, (syntax, package) in names.items():
        expected, came, remedy = refused(Path(str(get_testdata_file(name))))
        assert expected == "pixels in a transfer syntax that this installation decodes"
        assert came.startswith(syntax) and "1.2.840.10008.1.2.4." in came
        assert remedy == f"install the package that decodes it (pip install {package})"


def test_a_jpeg_whose_tables_are_torn_does_not_end_the_process(tmp_path: Path) -> None:
    """GDCM's decoder would, by an exception in C++."""
    whole = Path(str(get_testdata_file("SC_rgb_dcmtk_+eb+cy+np.dcm"))).read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:1960] + whole[1965:])
    expected, came, _ = refused(tmp_path / "a.dcm")
    assert expected.startswith("complete pixel data") and "cannot be decoded" in came


def test_an_rle_segment_at_a_wrong_place_does_not_end_the_process(tmp_path: Path) -> None:
    """The decoder written in Rust panics, which is no `Exception`; pydicom's own comes next."""
    ds = pydicom.dcmread(str(get_testdata_file("MR_small_RLE.dcm")))
    [frame] = generate_frames(ds.PixelData, number_of_frames=1)
    segments, first, second = struct.unpack("<3L", frame[:12])
    assert segments == 2
    ds.PixelData = encapsulate([struct.pack("<3L", 2, first, second + 1) + frame[12:]])
    ds.save_as(tmp_path / "a.dcm")
    with pytest.raises(BaseException, match="out of bounds") as panic:
        pixel_array(tmp_path / "a.dcm", decoding_plugin="pylibjpeg")
    assert not isinstance(panic.value, Exception)
    assert read_image(tmp_path / "a.dcm").pixels.shape == (64, 64)


def test_transfer_syntax_that_nothing_decodes(tmp_path: Path) -> None:
    ds = pydicom.dcmread(str(get_testdata_file("examples_rgb_color.dcm")))
    ds.PixelData = encapsulate([b"\0\0\1\xb3" + bytes(60)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    ds.save_as(tmp_path / "film.dcm", enforce_file_format=False)
    _, came, remedy = refused(tmp_path / "film.dcm")
    assert came == "MPEG2 Main Profile / Main Level (1.2.840.10008.1.2.4.100)"
    assert "convert the file to Explicit VR Little Endian" in remedy


def test_one_pixel_in_every_format(tmp_path: Path) -> None:
    dot = np.zeros((1, 1), np.uint8)
    for name in ("dot.png", "dot.jpg", "dot.tif"):
        Pillow.fromarray(dot).save(tmp_path / name)
    nibabel.save(nibabel.Nifti1Image(dot[..., None], np.eye(4)), tmp_path / "dot.nii")
    ds = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    ds.Rows = ds.Columns = 1
    ds.PixelData = b"\0\0"
    ds.save_as(tmp_path / "dot.dcm")
    for name in ("dot.png", "dot.jpg", "dot.tif", "dot.nii", "dot.dcm"):
        expected, came, remedy = refused(tmp_path / name)
        assert expected == "at least 16 x 16 pixels" and came in ("1 x 1", "1 x 1 x 1")
        assert remedy == "give the image at its full size"


def giants(folder: Path) -> list[Path]:
    """Small files whose headers announce 20,000 x 20,000 pixels."""
    size = 20_000
    header = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    body = zlib.compress(bytes(size) * 50)
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + bytes(4)
    png = folder / "giant.png"
    png.write_bytes(start + struct.pack(">I", zlib.crc32(header)) + chunk)

    Pillow.fromarray(GREY).save(folder / "giant.jpg")
    data = bytearray((folder / "giant.jpg").read_bytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", size, size)
    (folder / "giant.jpg").write_bytes(data)

    Pillow.fromarray(GREY).save(folder / "giant.tif", tiffinfo={256: size, 257: size})
    tags = bytearray((folder / "giant.tif").read_bytes())
    for tag, old in ((256, 80), (257, 64)):
        for form, kind in (("<HHII", 4), ("<HHIHH", 3)):
            tail = (old,) if kind == 4 else (old, 0)
            entry = struct.pack(form, tag, kind, 1, *tail)
            if entry in tags:
                at = tags.index(entry)
                tags[at : at + 12] = struct.pack("<HHII", tag, 4, 1, size)
    (folder / "giant.tif").write_bytes(tags)

    nifti = nibabel.Nifti1Header()
    nifti.set_data_shape((size, size, 1))
    (folder / "giant.nii").write_bytes(nifti.binaryblock + bytes(8))

    ds = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    ds.Rows = ds.Columns = size
    ds.save_as(folder / "giant.dcm")
    return [folder / f"giant.{kind}" for kind in ("png", "jpg", "tif", "nii", "dcm")]


def test_decompression_bombs_are_refused_from_the_header(tmp_path: Path) -> None:
    for path in giants(tmp_path):
        start = time.process_time()
        expected, came, remedy = refused(path)
        assert time.process_time() - start < 1.0
        assert expected == "at most 8192 x 8192 pixels"
        assert came.removeprefix("1 x ") == "20000 x 20000"
        assert remedy == "crop the image or make it smaller"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_numbers(tmp_path: Path, bad: float) -> None:
    values = np.ones((20, 20, 20), np.float32)
    values[3, 4, 5] = bad
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "bad.nii")
    Pillow.fromarray(values[3]).save(tmp_path / "bad.tif")
    for name in ("bad.nii", "bad.tif"):
        assert refused(tmp_path / name) == (
            "finite pixel values",
            "1 that are NaN or infinite",
            "replace them by numbers (for example 0) and read again",
        )


def test_nifti_needs_a_modality(tmp_path: Path) -> None:
    nibabel.save(
        nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.eye(4)), tmp_path / "a.nii"
    )
    expected, came, remedy = refused(tmp_path / "a.nii", modality=None)
    assert "modality of a NIfTI file" in expected and came == "none"
    assert remedy == "give --modality (for example --modality MR)"


def test_nifti_of_other_kinds(tmp_path: Path) -> None:
    colour = np.zeros((20, 20, 20), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    series = np.ones((20, 20, 20, 3), np.int16)
    for name, array in (("colour.nii", colour), ("time.nii.gz", series)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
    assert refused(tmp_path / "colour.nii")[0] == "a NIfTI file of real grey values"
    expected, came, _ = refused(tmp_path / "time.nii.gz")
    assert (expected, came) == ("a NIfTI volume of 3 axes", "4 axes (20 x 20 x 20 x 3)")
    nibabel.save(nibabel.Nifti1Pair(series[..., 0], np.eye(4)), tmp_path / "pair.img")
    assert "a .hdr/.img pair" in refused(tmp_path / "pair.hdr")[1]


def test_tiff_of_several_pages(tmp_path: Path) -> None:
    pages = [Pillow.fromarray(GREY)] * 3
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    expected, came, _ = refused(tmp_path / "a.tif")
    assert (expected, came) == ("a TIFF of one page", "3 pages")


@pytest.mark.parametrize(
    ("name", "modality", "came", "due"),
    [("MR_small.dcm", "CT", "CT", "MR"), ("CT_small.dcm", "MR", "MR", "CT")],
)
def test_a_modality_against_the_sop_class_is_refused(
    tmp_path: Path, name: str, modality: str, came: str, due: str
) -> None:
    made = pydicom.dcmread(str(get_testdata_file(name)))
    made.Modality = modality
    made.save_as(tmp_path / name)
    parts = refused(tmp_path / name, None)
    assert parts[0] == f"the modality {due} of its SOP class ({due} Image Storage)"
    assert parts[1] == came


def test_kinds_of_radiograph_share_a_sop_class(tmp_path: Path) -> None:
    made = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    made.SOPClassUID, made.Modality = ComputedRadiographyImageStorage, "DX"
    made.save_as(tmp_path / "x.dcm")
    assert read_image(tmp_path / "x.dcm").modality == "DX"


def test_modality_and_body_part_that_contradict_the_file() -> None:
    path = str(get_testdata_file("examples_overlay.dcm"))
    assert read_image(path, modality="MR", body_part="abdomen").body_part == "ABDOMEN"
    for option, given, file in (("modality", "CT", "MR"), ("body_part", "CHEST", "ABDOMEN")):
        with pytest.raises(StudyError) as caught:
            read_image(path, **{option: given})
        expected, came, remedy = said(caught)
        assert expected == f"{option.replace('_', ' ')} {given} as given"
        assert came == f"{file} in the file" and f"--{option.replace('_', '-')}" in remedy


@pytest.mark.parametrize(("given", "meant"), [("MRI", "MR"), ("x-ray", "DX"), ("CTT", "CT")])
def test_unknown_modality_suggests_the_code(tmp_path: Path, given: str, meant: str) -> None:
    with pytest.raises(StudyError) as caught:
        read_image(tmp_path / "any.png", modality=given)
    assert said(caught)[1:] == (repr(given), f"give {meant}")

"""Pixel values against a second decoder: DCMTK for all but JPEG 2000, which has GDCM."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from medic_ad.errors import MedicADError
from medic_ad.image import Image
from medic_ad.readers import read_image
from medic_ad.readers.common import LUMINANCE

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
UNPACK = {  # start of a transfer syntax -> the program of DCMTK that undoes it
    "1.2.840.10008.1.2.4.5": "dcmdjpeg",
    "1.2.840.10008.1.2.4.7": "dcmdjpeg",
    "1.2.840.10008.1.2.4.8": "dcmdjpls",
    "1.2.840.10008.1.2.5": "dcmdrle",
}
JPEG_2000 = "1.2.840.10008.1.2.4.9"
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91")


def second(path: Path, folder: Path) -> tuple[Dataset, np.ndarray] | None:
    """The stored values of a file by the other decoder, None where that one cannot."""
    syntax = str(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
    if syntax.startswith(JPEG_2000):
        ds = pydicom.dcmread(path)
        return ds, pixel_array(ds, decoding_plugin="gdcm")
    program = next((p for start, p in UNPACK.items() if syntax.startswith(start)), "dcmconv")
    plain = folder / "plain.dcm"
    done = subprocess.run([program, "+te", path, plain], capture_output=True, timeout=60)
    if done.returncode:
        return None
    ds = pydicom.dcmread(plain)
    if ds.BitsAllocated not in (8, 16, 32) or ds.PhotometricInterpretation.startswith("YBR"):
        return None
    kind = "<i" if ds.PixelRepresentation else "<u"
    values = np.frombuffer(ds.PixelData, f"{kind}{ds.BitsAllocated // 8}")
    if ds.PixelRepresentation:  # the sign is the highest bit stored, not allocated (PS3.5 8.1.1)
        spare = ds.BitsAllocated - ds.BitsStored
        values = (values << spare) >> spare
    size = int(ds.get("NumberOfFrames") or 1), ds.Rows, ds.Columns
    values = values[: np.prod(size) * ds.SamplesPerPixel]
    if ds.SamplesPerPixel == 3:
        if ds.get("PlanarConfiguration"):
            return ds, np.moveaxis(values.reshape(size[0], 3, *size[1:]), 1, -1)
        return ds, values.reshape(*size, 3)
    return ds, values.reshape(size)


def agrees(image: Image, ds: Dataset, stored: np.ndarray, lossy: bool) -> bool:
    """Compare in units of the pixels; frames in any order, as the reader may have sorted them."""
    expected = stored.astype(np.float64)
    if ds.SamplesPerPixel == 3:
        expected = expected @ np.array(LUMINANCE)
    slope, intercept = float(ds.get("RescaleSlope", 1) or 1), float(ds.get("RescaleIntercept", 0))
    expected = expected.reshape(-1, *image.pixels.shape[-2:]) * slope + intercept
    allowed = 3.0 * slope if lossy else 1e-6 * max(1000.0, np.abs(expected).max())  # of float32
    got = image.slices()
    places = range(len(expected))
    return len(got) == len(expected) and all(
        any(np.abs(got[i] - expected[j]).max() <= allowed for j in (i, *places)) for i in places
    )


def compare(files: list[Path], folder: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    differ = []
    for path in files:
        try:
            image, header = read_image(path), pydicom.dcmread(path, stop_before_pixels=True)
        except (MedicADError, pydicom.errors.InvalidDicomError):
            continue
        plain = header.get("PhotometricInterpretation") in ("MONOCHROME2", "RGB", "YBR_FULL_422")
        if not plain or {"PerFrameFunctionalGroupsSequence", "ModalityLUTSequence"} & set(
            dir(header)
        ):
            counts["other"] += 1  # palettes, inverted, rescaled by frame: other tests
            continue
        syntax = header.file_meta.get("TransferSyntaxUID")
        found = second(path, folder) if syntax else None
        if found is None:
            counts["not decoded by the other"] += 1
            continue
        counts["compared"] += 1
        if not agrees(image, *found, syntax in LOSSY):
            differ.append(path.name)
    return counts, differ


@pytest.fixture(autouse=True)
def quiet() -> None:
    if shutil.which("dcmconv") is None:
        pytest.skip("DCMTK is not installed (Debian package dcmtk)")
    warnings.simplefilter("ignore")


def test_pydicoms_files_have_the_pixels_of_the_second_decoder(tmp_path: Path) -> None:
    counts, differ = compare(sorted(PYDICOM.glob("*.dcm")), tmp_path)
    assert differ == [] and counts["compared"] >= 35, counts


def test_public_files_have_the_pixels_of_the_second_decoder(
    shared_data: Path, tmp_path: Path
) -> None:
    files = sorted(p for p in (shared_data / "dicom").rglob("*") if p.is_file())
    counts, differ = compare(files, tmp_path)
    assert differ == [] and counts["compared"] >= 110, counts

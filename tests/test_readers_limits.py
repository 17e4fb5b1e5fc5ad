"""DICOM files that are small on the disk and giants in memory: refused before they are unpacked."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from road_cases import planted, write_dicom
from sentence import said

from medic_ad.errors import ReadError
from medic_ad.readers import read_image
from medic_ad.readers.dicom_files import MAX_INFLATED_BYTES


def deflated(path: Path, dataset: Dataset, zeros: int = 0) -> Path:
    """A data set as a deflated file, with as many bytes of zero behind its pixels."""
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pixels = bytes(dataset.PixelData)
    del dataset.PixelData
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    meta = 144 + pydicom.dcmread(io.BytesIO(whole)).file_meta.FileMetaInformationGroupLength
    engine = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    parts = [engine.compress(zlib.decompress(whole[meta:], -zlib.MAX_WBITS))]
    length = (len(pixels) + zeros).to_bytes(4, "little")
    parts.append(engine.compress(b"\xe0\x7f\x10\x00OW\0\0" + length + pixels))
    for start in range(0, zeros, 2**20):
        parts.append(engine.compress(bytes(min(2**20, zeros - start))))
    path.write_bytes(whole[:meta] + b"".join(parts) + engine.flush())
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return pydicom.dcmread(write_dicom(tmp_path / "plain.dcm", planted().current))


def test_a_deflated_image_is_read_as_the_plain_one(tmp_path: Path, dataset: Dataset) -> None:
    plain = read_image(tmp_path / "plain.dcm")
    read = read_image(deflated(tmp_path / "a.dcm", dataset))
    np.testing.assert_array_equal(read.pixels, plain.pixels)


def test_a_deflated_bomb_is_refused_without_being_inflated(
    tmp_path: Path, dataset: Dataset
) -> None:
    path = deflated(tmp_path / "bomb.dcm", dataset, MAX_INFLATED_BYTES)
    assert path.stat().st_size < 2**22
    tracemalloc.start()
    with pytest.raises(ReadError) as caught:
        read_image(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected, came, _ = said(caught)
    assert expected == "at most 268435456 bytes in a deflated data set" and came == "more"
    assert peak < MAX_INFLATED_BYTES / 2


def test_frames_in_colour_beyond_the_limit_are_refused_before_any_is_decoded(
    tmp_path: Path, dataset: Dataset
) -> None:
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(dataset, keyword)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 700, 512, 512
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = encapsulate([b"\0" * 64] * 700)
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.save_as(tmp_path / "a.dcm")
    tracemalloc.start()
    with pytest.raises(ReadError) as caught:
        read_image(tmp_path / "a.dcm")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said(caught)[:2] == ("at most 536870912 values in all frames", "700 x 512 x 512 x 3")
    assert peak < 5e7

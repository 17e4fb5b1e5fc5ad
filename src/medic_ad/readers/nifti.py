"""Step 1 of the road: NIfTI -> Image, RAS to LPS, slices as displayed, through nibabel."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from medic_ad.errors import MedicADError, ReadError
from medic_ad.image import Image, Source, check_grid
from medic_ad.readers.common import cause, sha256_of

SHEARED = 1e-3  # of the slice distance, by which the step between slices may be longer
PADDING = 2**16  # bytes of zeros that may follow the voxels, as of a copy in whole blocks
_GZIP = b"\x1f\x8b"
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TO_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
# Where d, h and w run (nibabel's axis codes): a volume is axial, a lone slice keeps its plane.
_VOLUME = ("S", "P", "L")
_LONE_SLICE = {"S": _VOLUME, "A": ("P", "I", "L"), "R": ("L", "I", "P")}
_UNKNOWN = "no sform and no qform: orientation unknown, shown as if stored to left, front, head"


def is_nifti(path: Path, head: bytes) -> bool:
    """Whether the first bytes, unpacked if need be, are a NIfTI-1 or NIfTI-2 header."""
    if head.startswith(_GZIP):
        try:
            with gzip.open(path) as stream:
                head = stream.read(560)
        except (OSError, EOFError, zlib.error):
            return path.name.lower().endswith(".nii.gz")  # say "damaged NIfTI", not "unknown"
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2")


def read_nifti(path: Path, modality: str | None) -> Image:
    """Read a 3-D NIfTI file; `d` runs to the head, `h` to the back, `w` to the patient's left.

    Raises:
        ReadError: if no modality is given, or the file is damaged, has time or colour, or an
            impossible geometry.
    """
    if modality is None:
        raise ReadError(
            f"{path}: expected the modality of a NIfTI file, which does not carry it, came "
            "none; give --modality (for example --modality MR)."
        )
    try:
        array, affine, notes = _load(path)
    except MedicADError:
        raise
    except Exception as error:  # nibabel raises many kinds on damaged files
        raise ReadError(
            f"{path}: expected a complete NIfTI file, came one that cannot be read "
            f"({cause(error)}); copy or export it again."
        ) from error
    spacing = _spacing(affine)
    if abs(spacing[0] - np.linalg.norm(affine[:3, 0])) > SHEARED * spacing[0]:
        notes.append("slices are sheared (tilted gantry)")
    if array.shape[0] == 1:
        array, spacing = array[0], spacing[1:]
    source = Source(path=str(path), sha256=sha256_of(path), format="NIfTI", notes=tuple(notes))
    return Image(
        pixels=np.ascontiguousarray(array, dtype=np.float32),
        affine=None if _UNKNOWN in notes else affine,
        spacing_mm=spacing,
        modality=modality,
        source=source,
    )


def _spacing(affine: NDArray[np.float64]) -> tuple[float, ...]:
    """Millimetres (d, h, w); d is the distance of the slices, so that the product is a voxel.

    The column of d is longer where the slices are sheared, and volumes would come out too large.
    """
    h, w = (float(step) for step in np.linalg.norm(affine[:3, 1:3], axis=0))
    return float(abs(np.linalg.det(affine[:3, :3]))) / (h * w), h, w


def _load(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64], list[str]]:
    """Voxels `(d, h, w)`, the matrix from their indices to LPS mm, and notes."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    with gzip.open(path) if packed else path.open("rb") as stream:
        data, shape = _bytes_of(cast(BinaryIO, stream), path)
    kind: Any = nibabel.Nifti2Image if data[4:7] == b"n+2" else nibabel.Nifti1Image
    nifti = kind.from_bytes(data)
    array = nifti.get_fdata(dtype=np.float32, caching="unchanged").reshape(shape)
    affine = np.array(nifti.affine, dtype=np.float64)
    unit = nifti.header.get_xyzt_units()[0]
    affine[:3] *= _TO_MM.get(unit, 1.0)
    notes = [] if unit in ("mm", "unknown") else [f"geometry converted from {unit} to mm"]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ReadError(
            f"{path}: expected an invertible matrix from voxels to millimetres, came "
            f"{affine[:3].tolist()}; correct the sform or qform of the file."
        )
    if not (int(nifti.header["sform_code"]) or int(nifti.header["qform_code"])):
        notes.append(_UNKNOWN)
    start = io_orientation(affine)
    lone = [axis for axis in range(3) if shape[axis] == 1]
    codes = _LONE_SLICE["RAS"[int(start[lone[0], 0])]] if len(lone) == 1 else _VOLUME
    turn = ornt_transform(start, axcodes2ornt(codes))
    affine = _RAS_TO_LPS @ affine @ inv_ornt_aff(turn, shape)
    return apply_orientation(array, turn), affine, notes


def _bytes_of(stream: BinaryIO, path: Path) -> tuple[bytes, tuple[int, int, int]]:
    """The bytes that the header announces, and the shape; refused before voxels are unpacked.

    NIfTI knows nothing behind the voxels, so that what stands there is damage, a few zeros apart.
    """
    head = stream.read(540)
    kind: Any = nibabel.Nifti2Header if head[4:6] in (b"n+", b"ni") else nibabel.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(head), check=False)
    if header["magic"].item()[:2] != b"n+":
        raise ReadError(
            f"{path}: expected one NIfTI file, came the header of a .hdr/.img pair; save it as "
            "one .nii or .nii.gz file."
        )
    sizes = [int(n) for n in header.get_data_shape()]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 3:
        raise ReadError(
            f"{path}: expected a NIfTI volume of 3 axes, came {len(sizes)} axes "
            f"({' x '.join(map(str, sizes))}); save the one volume to read as its own file."
        )
    shape = cast(tuple[int, int, int], tuple(sizes + [1] * (3 - len(sizes))))
    check_grid(tuple(sorted(shape)), str(path))
    dtype = header.get_data_dtype()
    if dtype.fields or dtype.kind not in "iuf":
        raise ReadError(
            f"{path}: expected a NIfTI file of real grey values, came voxels of type {dtype}; "
            "convert them to one number a voxel."
        )
    offset = int(header["vox_offset"])
    if offset < kind.single_vox_offset:
        raise ReadError(
            f"{path}: expected voxels from byte {kind.single_vox_offset} on, came a NIfTI header "
            f"that puts them at {offset}; copy or export it again."
        )
    size = offset + math.prod(shape) * dtype.itemsize
    data = head + stream.read(max(0, size - len(head)))
    rest = stream.read(PADDING + 1)  # the end of a .gz, where its checksum is compared
    if len(rest) > PADDING or any(rest):
        raise ReadError(
            f"{path}: expected a complete NIfTI file of {size} bytes as its header says, came one "
            "that goes on behind its voxels; copy or export it again."
        )
    if len(data) < size:
        raise ReadError(
            f"{path}: expected {size} bytes of NIfTI data, came {len(data)}: the file is cut "
            "off; copy or export it again."
        )
    return data, shape

"""Training data: the layouts of Cheng 2015 as published (.mat) and as others pass it on (PNG).

figshare 1512427 documents one MATLAB file a slice, `N.mat` for N from 1 to 3064, in four archives,
with `cjdata.{label,PID,image,tumorBorder,tumorMask}`; label 1 meningioma, 2 glioma, 3 pituitary.
They are version 7.3, that is HDF5, with axes in reverse. The archives were not at hand: the reader
saw made files only. The PNG copies (`images/N.png`, `masks/N.png`) keep the number alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medic_ad.data.sample import Sample
from medic_ad.data.sets.common import need, pictures, save_picture
from medic_ad.data.splits import Reading
from medic_ad.errors import DataError

NAME = "brain_tumour_cheng"
_PUBLISHED = 3064
_BLOCK = 60  # numbers of a PNG copy that stay together; a patient has about 13 slices
_LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}


def from_mat(root: Path, files: dict[int, Path], work: Path) -> Reading:
    """Slices by patient, image and mask written once as PNG below `work`.

    Args:
        root: not part of the paths: the written files lie elsewhere.
        files: number of the slice -> its .mat file.
        work: gets images/NNNN.png, uint16 (H, W), and masks/NNNN.png, uint8 (H, W).

    Raises:
        DataError: a number is missing between 1 and the last, or a file is not as published.
    """
    absent = next((n for n in range(1, max(files) + 1) if n not in files), None)
    if absent is not None:
        raise DataError(
            f"Slice {absent} of {NAME} is missing: expected {absent}.mat below {root}; unpack all "
            "archives of the set there."
        )
    out = []
    for number, path in sorted(files.items()):
        image, mask = (work / kind / f"{number:04d}.png" for kind in ("images", "masks"))
        patient = _convert(path, image, mask)
        out.append(_sample(image.as_posix(), mask.as_posix(), patient, f"{NAME}:{patient}"))
    notes: tuple[str, ...] = ()
    if len(files) < _PUBLISHED:
        notes = (f"{len(files)} of the {_PUBLISHED} published slices are there.",)
    return Reading(out, drawn=True, notes=notes)


def from_png(root: Path) -> Reading:
    """Slices by blocks of neighbouring numbers, as patients are not known."""
    out = []
    for image in pictures(root / "images", f"The images of {NAME}"):
        if not image.stem.isdigit():
            raise DataError(f"{image}: expected a number as its name; take the published names.")
        mask = need(root / "masks" / image.name, f"The mask of slice {image.stem} of {NAME}")
        block = (int(image.stem) - 1) // _BLOCK
        name, drawn = (path.relative_to(root).as_posix() for path in (image, mask))
        out.append(_sample(name, drawn, None, f"{NAME}:block{block:03d}"))
    note = f"no patients in this layout: blocks of {_BLOCK} neighbouring slices stay together."
    return Reading(out, drawn=True, notes=(note,))


def _sample(image: str, mask: str, patient: str | None, group: str) -> Sample:
    return Sample(
        image=image,
        mask=mask,
        patient=patient,
        group=group,
        split="train",
        source=NAME,
        modality="MR",
        body_part="BRAIN",
        sequence="T1-CE",
        label=1.0,
    )


def _convert(path: Path, image: Path, mask: Path) -> str:
    """Write image and mask unless they are there; the patient's id."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path} is a MATLAB 7.3 file, which needs the package h5py: pip install h5py."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            data: Any = file["cjdata"]
            patient = "".join(chr(int(code)) for code in np.ravel(data["PID"])).strip()
            kind = int(np.ravel(data["label"])[0])
            pixels = drawn = None
            if not (image.is_file() and mask.is_file()):
                pixels, drawn = np.asarray(data["image"]).T, np.asarray(data["tumorMask"]).T
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} is no MATLAB 7.3 file with cjdata as published ({error}): fetch it again."
        ) from error
    if kind not in _LABELS or not patient:
        raise DataError(f"{path}: label {kind} or patient {patient!r} is not as published.")
    if pixels is not None and drawn is not None:
        if pixels.shape != drawn.shape:
            raise DataError(f"{path}: image {pixels.shape} and mask {drawn.shape} differ in grid.")
        save_picture((drawn > 0).astype(np.uint8) * 255, mask)
        save_picture(np.clip(pixels, 0, 65535).astype(np.uint16), image)
    return patient

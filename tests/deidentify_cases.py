"""Identifiers planted in every attribute of a DICOM file that has room for words."""

from __future__ import annotations

import datetime
import itertools
from pathlib import Path

import pydicom
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from medic_ad.deidentify.profile import table

PATIENT, DATE = "MRN-0042-77", datetime.date(2024, 5, 31)
PLANTED_WORD = "PLNT"
_WORDS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UT", "UR")
_NEEDED = {"Modality", "PatientID", "SpecificCharacterSet", "PhotometricInterpretation"}
_COUNTER = itertools.count(10**6)


def held(keyword: str) -> DataElement:
    """An empty element of a keyword."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag).split(" or ")[0]
    return DataElement(tag, vr, Sequence() if vr == "SQ" else None)


def plantable() -> list[int]:
    """Attributes with room for words: all of the standard's table, all free text, names, UIDs."""
    listed = {(group << 16) | element for group, element in table()}
    free = {t for t, entry in DicomDictionary.items() if entry[0] in ("PN", "LT", "ST", "UT", "UC")}
    tags = [t for t in sorted(listed | free) if keyword_for_tag(t) and t >> 16 not in (0x2, 0x0)]
    return [
        t
        for t in tags
        if dictionary_VR(t) in (*_WORDS, "UI", "DA", "DT")
        and keyword_for_tag(t) not in _NEEDED
        and "SOPClassUID" not in keyword_for_tag(t)
    ]


def plant(file: Path, tags: list[int], level: int) -> dict[str, str]:
    """Plant a word of its own in each attribute, `level` sequences deep.

    Returns:
        Planted word -> keyword of where it stands.
    """
    dataset = pydicom.dcmread(file)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]  # OCR leaves it alone
    target: Dataset = dataset
    for keyword in ("SourceImageSequence", "PurposeOfReferenceCodeSequence")[:level]:
        inner = Dataset()
        setattr(target, keyword, Sequence([inner]))
        target = inner
    words = {}
    for tag in tags:
        number, vr = next(_COUNTER), dictionary_VR(tag)
        word = f"{PLANTED_WORD}{number}"
        if vr == "UI":
            word = f"1.2.99.{number}"
        elif vr in ("DA", "DT"):
            day = datetime.date(1900, 1, 1) + datetime.timedelta(days=number % 20000)
            word = f"{day:%Y%m%d}" + ("101112.131415" if vr == "DT" else "")
        target[Tag(tag)] = DataElement(tag, vr, word)
        if vr != "DA":  # a day may by chance be another one, shifted
            words[word] = f"{keyword_for_tag(tag)} at level {level}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(file)
    content = file.read_bytes()
    assert all(word.encode() in content for word in words)
    return {**words, PATIENT: "PatientID"}

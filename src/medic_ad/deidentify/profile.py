"""De-identification: what PS3.15 table E.1-1 asks for each attribute, and what we add to it.

The table is dicom-anonymizer's, of edition 2026c. The profile is the Basic Application Level
Confidentiality Profile with the option Retain Longitudinal Temporal Information, Modified Dates:
dates are shifted, times of day go as the basic profile says.
"""

from __future__ import annotations

from functools import cache

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as edition
from pydicom.datadict import dictionary_has_tag
from pydicom.dataelem import DataElement

REMOVE, EMPTY, DUMMY, MAP, SHIFT, KEEP = "removed", "emptied", "replaced", "mapped", "shifted", ""
# Where the standard leaves a choice by the type of an attribute in its object, the one is taken
# that leaves a valid object whatever the type is.
_OF_TABLE = (
    (edition.X_TAGS, REMOVE),
    (edition.Z_TAGS, EMPTY),
    (edition.X_Z_TAGS, EMPTY),
    (edition.D_TAGS, DUMMY),
    (edition.Z_D_TAGS, DUMMY),
    (edition.X_D_TAGS, DUMMY),
    (edition.X_Z_D_TAGS, DUMMY),
    (edition.U_TAGS, MAP),
    (edition.X_Z_U_STAR_TAGS, MAP),  # references to images: kept, with mapped UIDs inside
)
_OVERLAYS_AND_CURVES = (0x5000, 0x6000)  # repeating groups, PS3.5 7.6
_FREE_TEXT = ("LT", "ST", "UC", "UT")


@cache
def table() -> dict[tuple[int, int], str]:
    """Action by group and element, without the repeating groups."""
    return {tag[:2]: action for tags, action in _OF_TABLE for tag in tags if len(tag) == 2}


def action_of(element: DataElement) -> str:
    """What happens to an element; more than the table asks where it is silent.

    The table leaves alone what it does not list. Of that, names and free text are taken away, and
    UIDs mapped unless they are the standard's own.
    """
    tag, vr = element.tag, element.VR
    if tag.is_private or tag.element == 0 or tag.group & 0xFF00 in _OVERLAYS_AND_CURVES:
        return REMOVE
    listed = table().get((tag.group, tag.element))
    if vr in ("DA", "DT") and "Birth" not in element.keyword:
        return SHIFT
    if vr == "UI" and listed != REMOVE:
        return MAP
    if listed is not None:
        return EMPTY if vr == "TM" and listed == REMOVE else listed
    if vr in ("PN", "TM"):
        return EMPTY
    return REMOVE if vr in _FREE_TEXT or vr == "UN" or not dictionary_has_tag(tag) else KEEP

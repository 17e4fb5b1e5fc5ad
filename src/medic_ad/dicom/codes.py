"""Step 6 of the road: the codes of what a report says, one table for DICOM and FHIR."""

from __future__ import annotations

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medic_ad.finding import Finding

SCHEME = "99MEDICAD"  # of words that no standard scheme has


def own(words: str) -> Code:
    """A code of this project, whose value is made of the words themselves."""
    return Code(words.upper().replace(" ", "_")[:16], SCHEME, words.replace("_", " "))


DECISIONS = {
    "abnormal": codes.SCT.Abnormal,
    "normal": codes.SCT.Normal,
    "uncertain": codes.SCT.Indeterminate,
    "out_of_scope": own("out_of_scope"),
}


def sizes(finding: Finding) -> list[tuple[Code, float, Code]]:
    """Name, value and unit of each size that is known of a finding."""
    every = (
        (codes.SCT.Volume, finding.volume_ml, codes.UCUM.CubicCentimeter),
        (codes.SCT.Area, finding.area_mm2, codes.UCUM.SquareMillimeter),
        (codes.SCT.LongAxis, finding.diameter_mm, codes.UCUM.Millimeter),
    )
    return [(name, value, unit) for name, value, unit in every if value is not None]

"""Step 6 of the road: a report as DICOM objects that refer to the study that was read."""

from medic_ad.dicom.write import write_dicom

__all__ = ["write_dicom"]

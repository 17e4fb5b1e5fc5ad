"""Medic-AD (open): detect, compare, explain. Research use only; not a medical device."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "load_model": "medic_ad.load",
    "Model": "medic_ad.load",
    "read_study": "medic_ad.study",
    "Study": "medic_ad.study",
    "read": "medic_ad.road",
    "Report": "medic_ad.report.report",
    "write_dicom": "medic_ad.dicom.write",
    "write_fhir": "medic_ad.fhir",
    "Image": "medic_ad.image",
    "Finding": "medic_ad.finding",
    "Change": "medic_ad.finding",
    "MedicADError": "medic_ad.errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """Names are loaded when first used, so that `medic-ad --help` does not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'medic_ad' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

"""DICOM images without what names their patient, with dates that can still be compared."""

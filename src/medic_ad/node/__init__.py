"""The road behind a DICOM node: images come in from a PACS, results go back."""

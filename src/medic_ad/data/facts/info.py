"""Training data: what the registry says of one data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SetInfo:
    """One public data set.

    Attributes:
        task: stages it serves, in the project's words.
        modality: DICOM code and what is pictured.
        n: studies or slices, as published or as prepared from the layout below.
        licence: as published, with the reference to cite.
        ship: whether weights trained on it may be given away.
        where: where it is published.
        layout: the files expected below its folder; " / " stands between layouts that are all read.
        module: what reads it.
        split: where its split comes from.
    """

    task: str
    modality: str
    n: str
    licence: str
    ship: bool
    where: str
    layout: str
    module: str
    split: str = "as published"


DRAWN = "drawn by patient and duplicate group"
TEST = "all in test: for evaluation only"

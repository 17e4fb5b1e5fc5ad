"""Training data: the public sets that can be prepared, by name; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SetInfo:
    """One public data set.

    Attributes:
        task: stages it serves, in the project's words.
        modality: DICOM code and what is pictured.
        n: studies or slices, as prepared from the layout below.
        licence: as published, with the reference to cite.
        ship: whether weights trained on it may be given away.
        where: where it is published.
        layout: the files expected below its folder.
        module: what reads it.
    """

    task: str
    modality: str
    n: str
    licence: str
    ship: bool
    where: str
    layout: str
    module: str


SETS: dict[str, SetInfo] = {
    "brain_tumour_cheng": SetInfo(
        task="detect, explain; lesions for compare",
        modality="MR, T1 with contrast, brain, axial, coronal and sagittal slices",
        n="2,190 slices",
        licence="CC BY 4.0, Cheng et al. 2015",
        ship=True,
        where="https://doi.org/10.6084/m9.figshare.1512427",
        layout="index.csv (image, mask, number, label, split), images/*.jpg, masks/*.png",
        module="medic_ad.data.sets.brain_tumour_cheng",
    ),
    "brain_no_tumour": SetInfo(
        task="detect: false positives only, another source than the tumours",
        modality="MR, brain, mixed sequences and planes",
        n="136 slices",
        licence="uploader says CC0, origin not verified",
        ship=False,
        where="public collections derived from Br35H",
        layout="index.csv (image, group, split), images/*.jpg",
        module="medic_ad.data.sets.brain_no_tumour",
    ),
    "ms_cross_sectional": SetInfo(
        task="detect, explain; slices without lesion of the same scans",
        modality="MR, FLAIR, brain, skull-stripped volumes in MNI space",
        n="2 patients",
        licence="CC BY, Lesjak et al. 2017",
        ship=True,
        where="https://lit.fe.uni-lj.si/tools",
        layout="patientNN/FLAIR_MNI.nii.gz, patientNN/lesions_MNI.nii.gz",
        module="medic_ad.data.sets.ms_cross_sectional",
    ),
    "ms_longitudinal": SetInfo(
        task="compare: unsigned change mask, for evaluation",
        modality="MR, FLAIR, brain, volumes at two dates",
        n="2 patients",
        licence="CC BY, Lesjak et al. 2016",
        ship=True,
        where="https://lit.fe.uni-lj.si/tools",
        layout="patientNN/{study1_FLAIR_common,study2_FLAIR_common,gt,brainmask}.nii.gz",
        module="medic_ad.data.sets.ms_longitudinal",
    ),
    "mni152": SetInfo(
        task="detect: slices without lesion",
        modality="MR, T1, brain template, skull-stripped volume",
        n="1 template",
        licence="ICBM 152, free to use with its notice, Fonov et al. 2011",
        ship=True,
        where="inside the Python package nilearn",
        layout="no folder needed",
        module="medic_ad.data.sets.mni152",
    ),
    "brain_mri_253": SetInfo(
        task="detect: the paper's Brain MRI set, for evaluation",
        modality="MR, brain, mixed sequences and planes",
        n="159 slices with their duplicates",
        licence="not verified",
        ship=False,
        where="Kaggle: brain-mri-images-for-brain-tumor-detection",
        layout="index.csv (image, label, mask, duplicate_group), yes/, no/, masks/",
        module="medic_ad.data.sets.brain_mri_253",
    ),
    "table": SetInfo(
        task="any: your own images",
        modality="as the column `modality` says",
        n="your rows",
        licence="yours",
        ship=False,
        where="a CSV file of your own",
        layout="CSV: image[, slice, prior, patient, date, label, mask, change, question, answer,"
        " split, modality, body_part, sequence]",
        module="medic_ad.data.sets.table",
    ),
}

COMBINATIONS: dict[str, tuple[str, ...]] = {
    "nano": ("brain_tumour_cheng", "ms_cross_sectional", "mni152"),
}

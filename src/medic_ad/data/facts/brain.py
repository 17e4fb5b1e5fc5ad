"""Training data: facts of the sets of the brain."""

from __future__ import annotations

from medic_ad.data.facts.info import TEST, SetInfo

SETS: dict[str, SetInfo] = {
    "brain_tumour_cheng": SetInfo(
        task="detect, explain; lesions for compare",
        modality="MR, T1 with contrast, brain, axial, coronal and sagittal slices",
        n="2,190 slices as indexed, 3,064 as published",
        licence="CC BY 4.0, Cheng et al. 2015",
        ship=True,
        where="https://doi.org/10.6084/m9.figshare.1512427",
        layout="index.csv (image, mask, number, label, split), images/*.jpg, masks/*.png"
        " / 1.mat to 3064.mat in any folders below (MATLAB 7.3; written once as PNG beside the"
        " table) / images/N.png, masks/N.png",
        module="medic_ad.data.sets.brain_tumour_cheng",
        split="index: by blocks of slices; .mat: drawn by patient; PNG: drawn by blocks",
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
        split="val and test, as the index says",
    ),
    "ms_cross_sectional": SetInfo(
        task="detect, explain; slices without lesion of the same scans",
        modality="MR, FLAIR, brain, volumes",
        n="30 patients published",
        licence="CC BY, Lesjak et al. 2017",
        ship=True,
        where="https://lit.fe.uni-lj.si/tools",
        layout="patientNN/ with FLAIR_MNI.nii.gz, lesions_MNI.nii.gz"
        " / patientNN_FLAIR.nii.gz, patientNN_consensus_gt.nii.gz, patientNN_brainmask.nii.gz"
        " / the same names without patientNN_",
        module="medic_ad.data.sets.ms_cross_sectional",
        split="by patient: patient26 (or --validation) validates, the others train",
    ),
    "ms_longitudinal": SetInfo(
        task="compare: unsigned change mask, for evaluation",
        modality="MR, FLAIR, brain, volumes at two dates",
        n="20 patients published",
        licence="CC BY, Lesjak et al. 2016",
        ship=True,
        where="https://lit.fe.uni-lj.si/tools",
        layout="patientNN/ with study1_FLAIR_common, study2_FLAIR_common, gt, brainmask (.nii.gz)"
        " / patientN_study1_FLAIRreg, patientN_study2_FLAIRreg, patientN_gt, patientN_brainmask"
        " / study1_FLAIR, study2_FLAIR, gt, brainmask",
        module="medic_ad.data.sets.ms_longitudinal",
        split=TEST,
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
        split="all in train",
    ),
    "brain_mri_253": SetInfo(
        task="detect: the paper's Brain MRI set, for evaluation",
        modality="MR, brain, mixed sequences and planes",
        n="253 slices published, 228 distinct files",
        licence="not verified",
        ship=False,
        where="Kaggle: navoneel/brain-mri-images-for-brain-tumor-detection",
        layout="yes/, no/ / index.csv (image, label, mask, duplicate_group), yes/, no/, masks/",
        module="medic_ad.data.sets.brain_mri_253",
        split=TEST,
    ),
    "br35h": SetInfo(
        task="detect: the paper's Br35H set, for evaluation",
        modality="MR, brain, mixed sequences and planes",
        n="3,000 slices, many of them copies of brain_mri_253",
        licence="not verified",
        ship=False,
        where="Kaggle: ahmedhamada0/brain-tumor-detection",
        layout="yes/, no/ (pred/ has no labels and is left out)",
        module="medic_ad.data.sets.classes",
        split=TEST,
    ),
    "head_ct": SetInfo(
        task="detect: the paper's Head CT set, for evaluation",
        modality="CT, head, one slice a patient, haemorrhage or not",
        n="200 slices published",
        licence="not verified",
        ship=False,
        where="Kaggle: felipekitamura/head-ct-hemorrhage",
        layout="labels.csv (id, hemorrhage), head_ct/head_ct/NNN.png"
        " / index.csv (image, id, hemorrhage, duplicate_group)",
        module="medic_ad.data.sets.head_ct",
        split=TEST,
    ),
}

"""Training data: facts of the sets of the chest."""

from __future__ import annotations

from medic_ad.data.facts.info import DRAWN, TEST, SetInfo

_CLASSES = "medic_ad.data.sets.classes"
_SERIES = "medic_ad.data.sets.cxr_series"

SETS: dict[str, SetInfo] = {
    "chestx_det": SetInfo(
        task="detect, explain",
        modality="DX, chest radiographs, 13 findings with polygons",
        n="3,578 images",
        licence="not stated; images from NIH ChestX-ray14, Lian et al. 2021",
        ship=False,
        where="https://github.com/Deepwise-AILab/ChestX-Det-Dataset",
        layout="ChestX_Det_train.json, ChestX_Det_test.json, train_data/*.png, test_data/*.png;"
        " the polygons are written once as masks beside the table",
        module="medic_ad.data.sets.chestx_det",
    ),
    "covid19_radiography": SetInfo(
        task="detect: the paper's COVID-19 set, for evaluation",
        modality="DX, chest radiographs",
        n="21,165 images",
        licence="not verified, mixed sources, Chowdhury et al. 2020, Rahman et al. 2021",
        ship=False,
        where="Kaggle: tawsifurrahman/covid19-radiography-database",
        layout="{COVID,Lung_Opacity,Normal,Viral Pneumonia}/images/*.png; masks/ hold lungs, not"
        " lesions, and are left out",
        module=_CLASSES,
        split=TEST,
    ),
    "cxr_kermany": SetInfo(
        task="detect",
        modality="DX, chest radiographs of children, pneumonia or not",
        n="5,856 images published",
        licence="CC BY 4.0, Kermany et al. 2018",
        ship=True,
        where="https://doi.org/10.17632/rscbjbr9sj.2",
        layout="{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg (val is optional)"
        " / index.csv (image, pneumonia, patient)",
        module=_CLASSES,
        split=f"as published where the folders say it, else {DRAWN}",
    ),
    "covid_ct": SetInfo(
        task="detect",
        modality="CT, chest, slices from journal figures",
        n="746 slices published",
        licence="mixed, figures of journals, Yang et al. 2020",
        ship=False,
        where="https://github.com/UCSD-AI4H/COVID-CT",
        layout="{CT_COVID,CT_NonCOVID}/ (or below Images-processed/), Data-split/*/*CT_*.txt"
        " / index.csv (image, covid, group)",
        module=_CLASSES,
        split=f"as published where Data-split is there, else {DRAWN}",
    ),
    "covid_ct_seg": SetInfo(
        task="explain: every slice has an infection mask, for evaluation",
        modality="CT, chest, slices, rotated by 90 degrees as published",
        n="50 slices",
        licence="not verified",
        ship=False,
        where="origin not verified",
        layout="index.csv (image, mask), images/*.jpg, masks/*.png",
        module=_CLASSES,
        split=TEST,
    ),
    "cxr_hannover": SetInfo(
        task="compare: pairs without a label of change",
        modality="DX and CR, chest radiographs of COVID-19 patients, series over days",
        n="200 images published here, of 50 patients",
        licence="CC BY 3.0, Winther et al. 2020",
        ship=True,
        where="https://doi.org/10.6084/m9.figshare.12275009",
        layout="data.csv (patient_id, image_id, admission_offset, modality), png/ID.png or"
        " jpg/ID.jpg",
        module=_SERIES,
        split=DRAWN,
    ),
    "covid_chestxray": SetInfo(
        task="detect; compare: pairs without a label of change",
        modality="DX, chest radiographs, series over days",
        n="about 950 images published, frontal radiographs are taken",
        licence="per image: CC BY-NC-SA, CC BY and others, Cohen et al. 2020",
        ship=False,
        where="https://github.com/ieee8023/covid-chestxray-dataset",
        layout="metadata.csv (patientid, offset, finding, view, modality, filename), images/",
        module=_SERIES,
        split=DRAWN,
    ),
    "cxr_followup_ieee8023": SetInfo(
        task="compare: change from the case notes, for evaluation",
        modality="DX, chest radiographs, pairs of one patient",
        n="39 pairs of 20 patients",
        licence="per image: CC BY-NC-SA, CC BY, Cohen et al. 2020",
        ship=False,
        where="https://github.com/ieee8023/covid-chestxray-dataset",
        layout="pairs.csv (patientid, baseline_file, followup_file, change), images/",
        module=_SERIES,
        split=TEST,
    ),
}

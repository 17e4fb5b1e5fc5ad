"""Training data: facts of the sets with questions and answers."""

from __future__ import annotations

from medic_ad.data.facts.info import DRAWN, TEST, SetInfo

_ONE = "medic_ad.data.sets.questions"
_TWO = "medic_ad.data.sets.pair_questions"

SETS: dict[str, SetInfo] = {
    "vqa_rad": SetInfo(
        task="language: questions about one image",
        modality="CT, MR and radiographs of head, chest and abdomen",
        n="3,515 questions about 314 of 315 images",
        licence="CC0 1.0, Lau et al. 2018",
        ship=True,
        where="https://osf.io/89kps",
        layout="trainset.json, testset.json, images/ / VQA_RAD Dataset Public.json,"
        " VQA_RAD Image Folder/",
        module=_ONE,
        split=f"{DRAWN}: every published test image is a train image too",
    ),
    "slake": SetInfo(
        task="language: questions about one image, the English ones",
        modality="CT, MR and radiographs of head, neck, chest, abdomen and pelvis",
        n="14,028 questions in two languages about 642 images",
        licence="CC BY 4.0 as its page says: not verified, Liu et al. 2021",
        ship=False,
        where="https://www.med-vqa.com/slake",
        layout="train.json, validate.json (or validation.json), test.json, imgs/xmlabN/source.jpg,"
        " or all of it below Slake1.0/",
        module=_ONE,
    ),
    "pathvqa": SetInfo(
        task="language: questions about one image",
        modality="pathology, pictures from textbooks",
        n="32,799 questions about 4,998 images",
        licence="MIT for the questions, images from textbooks: not verified, He et al. 2020",
        ship=False,
        where="https://github.com/UCSD-AI4H/PathVQA",
        layout="qas/{train,val,test}/{train,val,test}_qa.pkl, images/{train,val,test}/NAME.jpg, or"
        " all of it below pvqa/",
        module=_ONE,
    ),
    "mimic_diff_vqa": SetInfo(
        task="compare, language: questions about one image or two dates",
        modality="DX, chest radiographs",
        n="700,703 questions about 164,324 pairs",
        licence="PhysioNet Credentialed Health Data Licence 1.5.0, Hu et al. 2023",
        ship=False,
        where="https://physionet.org/content/medical-diff-vqa and mimic-cxr-jpg",
        layout="mimic_pair_questions.csv, mimic_all.csv, files/pNN/pSUBJECT/sSTUDY/DICOM.jpg of"
        " MIMIC-CXR-JPG",
        module=_TWO,
    ),
    "mmxu": SetInfo(
        task="compare, language: questions about two dates",
        modality="DX, chest radiographs",
        n="3,000 questions in test; dev (118,000) is given on request",
        licence="PhysioNet Credentialed Health Data Licence for the images, Mu et al. 2025",
        ship=False,
        where="https://huggingface.co/datasets/LinjieMu/MMXU and mimic-cxr-jpg",
        layout="MMXU-test.jsonl, MMXU-dev.jsonl (optional), files/ of MIMIC-CXR-JPG",
        module=_TWO,
        split="test; dev trains",
    ),
    "temmed_bench": SetInfo(
        task="compare, language: questions about two dates",
        modality="DX, chest radiographs",
        n="as in the benchmark's test file",
        licence="images: Stanford research use agreement, Zhang et al. 2025",
        ship=False,
        where="https://huggingface.co/datasets/uclanlp/TemMed-Bench and CheXpert Plus",
        layout="Get_Data/TestSet_VQA_ReportGeneration_Final.json (or without _Final), PNG/ of"
        " CheXpert Plus",
        module=_TWO,
        split=TEST,
    ),
    "medsg_bench": SetInfo(
        task="compare, language: where two images differ; the box is the answer",
        modality="mixed, slices of 76 public sets",
        n="the two difference tasks of 9,630 questions in eight tasks",
        licence="that of the 76 sources: not verified, Yue et al. 2025",
        ship=False,
        where="https://huggingface.co/MedSG-Bench",
        layout="one JSON file a task (task, images, question, answer) and the images that it names",
        module=_TWO,
        split=TEST,
    ),
}

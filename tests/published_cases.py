"""Small made copies of published layouts, each true to the page that its reader names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture
from scipy import ndimage


def scene(seed: int, side: int = 32) -> np.ndarray:
    """A smooth random picture uint8 (side, side); two seeds never look alike."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    smooth = ndimage.gaussian_filter(noise, 2)
    return np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth), np.uint8)


class Maker:
    """Writes pictures that differ from one another below one root."""

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, 0

    def picture(self, name: str) -> None:
        """One more picture under this name."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(scene(self.made)).save(path)
        self.made += 1

    def text(self, name: str, content: str) -> None:
        """A text file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def json(self, name: str, content: Any) -> None:
        """A JSON file, one object a line where the name ends in .jsonl."""
        rows = "\n".join(json.dumps(row) for row in content)
        self.text(name, rows if name.endswith("l") else json.dumps(content))


def bmad(root: Path, masks: bool, way: str = "{split}/{label}/{role}", val: str = "valid") -> Path:
    """BMAD: 6 normal train, 2 + 2 val, 2 + 2 test."""
    make = Maker(root)
    for split, label, n in (
        ("train", "good", 6),
        (val, "good", 2),
        (val, "Ungood", 2),
        ("test", "good", 2),
        ("test", "Ungood", 2),
    ):
        for _ in range(n):
            file = f"{make.made:05d}_60.png"
            images = way.format(split=split, label=label, role="img") if masks else None
            make.picture(f"{images or f'{split}/{label}'}/{file}")
            if masks and label == "Ungood":
                make.picture(f"{way.format(split=split, label=label, role='label')}/{file}")
    return root


def chestx_det(root: Path) -> Path:
    """ChestX-Det: 2 train images of one patient, one of them normal, and 1 test image."""
    make = Maker(root)
    square = [[4, 6], [11, 6], [11, 13], [4, 13]]
    found = {"syms": ["Mass"], "boxes": [[4, 6, 11, 13]], "polygons": [square]}
    none: dict[str, list[Any]] = {"syms": [], "boxes": [], "polygons": []}
    rows: dict[str, list[dict[str, Any]]] = {
        "train": [
            {"file_name": "00000042_006.png", **found},
            {"file_name": "00000042_007.png", **none},
        ],
        "test": [{"file_name": "36199.png", **found}],
    }
    for split, entries in rows.items():
        make.json(f"ChestX_Det_{split}.json", entries)
        for entry in entries:
            make.picture(f"{split}_data/{entry['file_name']}")
    return root


def classes(root: Path, *names: str, n: int = 4) -> Path:
    """One folder a class with n pictures each."""
    make = Maker(root)
    for name in names:
        for i in range(n):
            make.picture(f"{name}/{i}.png")
    return root


def kermany(root: Path) -> Path:
    """Kermany as on Kaggle: person7 lies in train and in test."""
    make = Maker(root)
    for name in ("train/NORMAL/IM-0115-0001", "train/NORMAL/NORMAL2-IM-0927-0001"):
        make.picture(f"chest_xray/{name}.jpeg")
    for name in ("train/PNEUMONIA/person7_bacteria_24", "train/PNEUMONIA/person7_bacteria_25"):
        make.picture(f"chest_xray/{name}.jpeg")
    for name in ("test/NORMAL/IM-0001-0001", "test/PNEUMONIA/person7_virus_6"):
        make.picture(f"chest_xray/{name}.jpeg")
    make.picture("chest_xray/test/PNEUMONIA/person8_virus_9.jpeg")
    make.text("chest_xray/test/PNEUMONIA/._person8_virus_9.jpeg", "left by an archive")
    return root


def covid_ct(root: Path) -> Path:
    """COVID-CT: one paper with three figures, two of them in train and one in test."""
    make = Maker(root)
    paper = [f"2020.02.11.20022053-p12-67_{i}.png" for i in range(2)] + [
        "2020.02.11.20022053-p13-68.png"
    ]
    files = {"COVID": [*paper, "PIIS0140673620301549_0_0.png", "kjr-21-e24-g001-l-a.png"]}
    files["NonCOVID"] = ["25.png", "63_3.png", "1502.png"]
    lists = {
        "COVID": {
            "train": paper[:2],
            "val": files["COVID"][3:4],
            "test": [paper[2], *files["COVID"][4:]],
        },
        "NonCOVID": {"train": ["25.png"], "val": ["63_3.png"], "test": ["1502.png"]},
    }
    for kind, names in files.items():
        for file in names:
            make.picture(f"Images-processed/CT_{kind}/{file}")
        for split, listed in lists[kind].items():
            make.text(f"Data-split/{kind}/{split}CT_{kind}.txt", "\n".join(listed) + "\n")
    return root


def slake(root: Path) -> Path:
    """SLAKE: an image a split, a question in Chinese beside."""
    make = Maker(root)
    for n, file in enumerate(("train", "validate", "test")):
        make.picture(f"Slake1.0/imgs/xmlab{n}/source.jpg")
        row = {"img_id": n, "img_name": f"xmlab{n}/source.jpg", "q_lang": "en", "answer": "MRI"}
        row |= {"question": "Which modality?", "modality": "MRI", "location": "Brain"}
        other = row | {"q_lang": "zh", "question": "?"}
        make.json(f"Slake1.0/{file}.json", [row, other])
    return root


def pathvqa(root: Path, content: Any = None) -> Path:
    """PathVQA: an image a split with two questions."""
    make = Maker(root)
    for split in ("train", "val", "test"):
        name = f"{split}_0261"
        make.picture(f"pvqa/images/{split}/{name}.jpg")
        rows = [{"image": name, "question": q, "answer": "neutrophils"} for q in ("What?", "Why?")]
        path = root / f"pvqa/qas/{split}/{split}_qa.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(pickle.dumps(rows if content is None else content))
    return root


def mimic(root: Path) -> Path:
    """MIMIC-Diff-VQA: two studies of one patient, asked about in both orders, and another's."""
    make = Maker(root)
    make.text(
        "mimic_all.csv",
        "subject_id,study_id,dicom_id,study_order\n"
        "10000032,50414267,aa,1\n10000032,53189527,bb,2\n10000764,57375967,cc,1\n",
    )
    head = "study_id,subject_id,ref_id,question_type,question,answer,split\n"
    ask = "what has changed?,more edema"
    make.text(
        "mimic_pair_questions.csv",
        head + f"53189527,10000032,50414267,difference,{ask},train\n"
        f"50414267,10000032,53189527,difference,{ask},train\n"
        "53189527,10000032,50414267,view,which view?,PA,train\n"
        "57375967,10000764,57375967,presence,is there edema?,no,test\n",
    )
    make.picture("files/p10/p10000032/s50414267/aa.jpg")
    make.picture("files/p10/p10000032/s53189527/bb.jpg")
    make.picture("files/p10/p10000764/s57375967/cc.jpg")
    return root


def mmxu(root: Path) -> Path:
    """MMXU: a test question about two studies; dev holds one of the same patient and another."""
    make = Maker(root)
    shots = [f"files/p10/p{p}/s{s}/x.jpg" for p, s in ((10000032, 1), (10000032, 2), (10000764, 3))]
    for shot in shots:
        make.picture(shot)
    row = {"id": 1, "question": "How did the left lung change?", "answer": "B"}
    row["options"] = {"A": "Improved", "B": "Worse"}
    pair = {"cur_image_path": shots[1], "prior_image_path": [shots[0]]}
    other = {"cur_image_path": shots[2], "prior_image_path": [shots[2]]}
    make.json("MMXU-test.jsonl", [row | pair, row | other])
    make.json("MMXU-dev.jsonl", [row | pair])
    return root


def temmed(root: Path) -> Path:
    """TemMed-Bench: one pair with two questions."""
    make = Maker(root)
    shots = [f"train/patient00005/study{n}/view1_frontal" for n in (1, 2)]
    for shot in shots:
        make.picture(f"PNG/{shot}.png")
    asked = [{"VQA_question": f"Worse {n}?", "VQA_answer": "Yes"} for n in range(2)]
    row = {"historical_image_path": f"{shots[0]}.jpg", "image_path": f"{shots[1]}.jpg"}
    make.json("Get_Data/TestSet_VQA_ReportGeneration_Final.json", [row | {"VQA_Final": asked}])
    return root


def medsg(root: Path) -> Path:
    """MedSG-Bench: a difference task, with paths of the authors' machine, and another task."""
    make = Maker(root)
    for n in range(2):
        make.picture(f"Task1/a_{n}.png")
    row: dict[str, Any] = {
        "task": "Registered_Diff",
        "question": "<image>\n<image>\nWhere do they differ?",
    }
    row |= {"images": [f"/data/MedSG/Task1/a_{n}.png" for n in range(2)], "answer": [3, 4, 9, 8]}
    make.json("Task1.json", [row])
    make.json("Task8.json", [row | {"task": "referring"}])
    return root


def chestxray(root: Path) -> Path:
    """covid-chestxray-dataset: a series of two days, a lateral view, a CT and others' images."""
    make = Maker(root)
    rows = ["patientid,offset,finding,view,modality,filename,license"]
    for patient, day, finding, view, kind, file in (
        ("2", "5", "Pneumonia/Viral/COVID-19", "AP Supine", "X-ray", "b.jpg"),
        ("2", "0", "Pneumonia/Viral/COVID-19", "PA", "X-ray", "a.jpg"),
        ("2", "5", "Pneumonia/Viral/COVID-19", "L", "X-ray", "side.jpg"),
        ("4", "", "No Finding", "PA", "X-ray", "c.jpg"),
        ("6", "1", "todo", "PA", "X-ray", "d.jpg"),
        ("7", "1", "Pneumonia", "Axial", "CT", "e.nii.gz"),
    ):
        rows.append(f"{patient},{day},{finding},{view},{kind},{file},CC BY")
        make.picture(f"images/{file if kind == 'X-ray' else 'unused.png'}")
    make.text("metadata.csv", "\n".join(rows) + "\n")
    return root

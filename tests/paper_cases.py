"""Tiny copies of the paper's data sets under one root, as `runs/paper.sh` takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import published_cases as cases
import tiny
from PIL import Image as Picture

from medic_ad.load import processor_from_base
from medic_ad.model.modeling import MedicADForConditionalGeneration
from medic_ad.processor import ANO, DIFF

BMAD = {  # name -> folder, masks, way to images, name of val
    "bmad_brats2021": ("Brain", True, "{split}/{label}/{role}", "valid"),
    "bmad_liver": ("Liver/Train/hist_DIY", True, "{split}/{role}/{label}", "valid"),
    "bmad_resc": ("RESC", True, "{split}/{label}/{role}", "Val/val"),
    "bmad_oct2017": ("OCT2017", False, "", "val"),
    "bmad_rsna": (".", False, "", "valid"),
    "bmad_camelyon16": ("camelyon16_256", False, "", "valid"),
}


def paper(root: Path) -> Path:
    """Every set that the recipe trains on or measures; a few pictures each."""
    for name, (folder, masks, way, val) in BMAD.items():
        cases.bmad(root / name / folder, masks, way, val)
        for mask in (root / name).rglob("*label*/**/*.png"):
            spot = np.zeros((32, 32), np.uint8)
            spot[10:16, 12:19] = 255
            Picture.fromarray(spot).save(mask)
    cases.chestx_det(root / "chestx_det")
    cases.slake(root / "slake")
    cases.pathvqa(root / "pathvqa")
    vqa = cases.Maker(root / "vqa_rad")
    asked = {"question": "Is it normal?", "answer": "no", "image_organ": "HEAD"}
    for n in range(5):
        vqa.picture(f"images/{n}.jpg")
    for split, images in (("train", range(4)), ("test", range(4, 5))):
        vqa.json(f"{split}set.json", [{**asked, "image_name": f"{n}.jpg"} for n in images])
    mimic = cases.mimic(root / "mimic_diff_vqa")
    for study, lesion in (("s50414267/aa", False), ("s53189527/bb", True)):
        image, _ = tiny.head(1, lesion)  # two dates of one patient: a blob appears
        Picture.fromarray(image).save(mimic / f"files/p10/p10000032/{study}.jpg")
    for name, row in (  # and a pair in test
        ("all", "10000764,57375968,dd,2"),
        (
            "pair_questions",
            "57375968,10000764,57375967,difference,what has changed?,more edema,test",
        ),
    ):
        with (mimic / f"mimic_{name}.csv").open("a") as file:
            file.write(f"{row}\n")
    later = mimic / "files/p10/p10000764/s57375968/dd.jpg"
    later.parent.mkdir()
    Picture.fromarray(cases.scene(77)).save(later)
    cases.classes(root / "brain_mri_253", "yes", "no", n=6)  # folds need five groups of a class
    cases.classes(root / "br35h", "yes", "no", "pred", n=6)
    covid = cases.Maker(cases.covid_ct(root / "covid_ct"))
    for kind, names in {
        "COVID": [f"PIIS020000000000000{n}_0_0.png" for n in range(6)],
        "NonCOVID": [f"{200 + n}.png" for n in range(6)],
    }.items():
        listed = root / f"covid_ct/Data-split/{kind}/testCT_{kind}.txt"
        listed.write_text(listed.read_text() + "\n".join(names) + "\n")
        for name in names:
            covid.picture(f"Images-processed/CT_{kind}/{name}")
    head = cases.Maker(root / "head_ct")
    for i in range(12):
        head.picture(f"head_ct/head_ct/{i:03d}.png")
    rows = "".join(f"{i},{int(i < 6)}\n" for i in range(12))
    head.text("labels.csv", "id, hemorrhage\n" + rows)
    measured = ("brain_mri_253", "br35h", "covid_ct", "head_ct")
    for seed, path in enumerate(p for name in measured for p in (root / name).rglob("*.png")):
        Picture.fromarray(cases.scene(1000 + seed)).save(path)  # of no training set
    return root


def backbone(folder: Path) -> Path:
    """A tiny checkpoint in the Hub's layout with tiny heads, so that 112 pixels do."""
    tiny.published_checkpoint(folder / "published")
    processor = processor_from_base(folder / "published")
    ano, diff = processor.tokenizer.convert_tokens_to_ids([ANO, DIFF])
    network = MedicADForConditionalGeneration.from_base(
        folder / "published", **tiny.TINY_HEADS, ano_token_id=ano, diff_token_id=diff
    )
    network.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    return folder / "base"

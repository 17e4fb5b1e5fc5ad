"""Evaluation: figures that others published, to stand beside ours; nothing here was measured."""

from __future__ import annotations

# F1 in percent, image-level anomaly detection, cross-data-set (Medic-AD, arXiv 2603.27176). "five"
# is the paper's average over Brain MRI, Head CT, COVID-19, Br35H and ChestX-Det.
SETS = {  # which COVID-19 set is the paper's is not verified
    "brain_mri_253": "Brain MRI",
    "head_ct": "Head CT",
    "covid_ct": "COVID-19",
    "covid19_radiography": "COVID-19",
    "br35h": "Br35H",
    "chestx_det": "ChestX-Det",
}
FIVE = tuple(dict.fromkeys(SETS.values()))
F1: dict[str, dict[str, float]] = {
    "GPT-4o": {"Brain MRI": 74.1, "Head CT": 65.5, "COVID-19": 44.4, "five": 62.4},
    "Citrus-V 8B": {"Brain MRI": 90.2, "Head CT": 88.1, "COVID-19": 70.9, "five": 84.2},
    "Lingshu 7B": {"Brain MRI": 88.4, "Head CT": 92.8, "COVID-19": 84.2, "five": 88.7},
    "Medic-AD 7B": {"Brain MRI": 91.5, "Head CT": 93.3, "COVID-19": 89.4, "five": 91.2},
}
# Zero-shot image AUROC (AnomalyCLIP, arXiv 2310.18961).
AUROC: dict[str, dict[str, float]] = {"AnomalyCLIP": {"Brain MRI": 0.903, "Head CT": 0.934}}

"""Evaluation: what some weights know of patients, from the records of training beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from medic_ad.data.sample import Sample
from medic_ad.models import checkpoint_folder
from medic_ad.train.run import patients

TRAINED, FITTED, UNSEEN = "seen in training", "used for calibration", "not seen"
NO_RECORD = "not known, the weights come without records"


def records_of(model: str) -> dict[str, dict[str, Any]]:
    """Stage -> what its training wrote down, of weights by name or folder; sorted by file."""
    paths = sorted(checkpoint_folder(model).glob("*.run.json"))
    return {path.name.removesuffix(".run.json"): json.loads(path.read_text()) for path in paths}


def seen_patients(model: str, samples: Sequence[Sample]) -> dict[str, str]:
    """Patient -> one of the words above.

    Args:
        model: name of a model, here or on the Hub, or its folder.
        samples: of the patients, with the splits that stand; a record that names no patients is of
            these.
    """
    records = records_of(model)
    trained, fitted = set[str](), set[str]()
    for stage, record in records.items():
        calibrates = stage == "calibrate"
        standing = [s for s in samples if s.split == ("val" if calibrates else "train")]
        left_out = record["arguments"].get("exclude", "").split(",")
        of_record = record.get("patients", set(patients(standing)) - set(left_out))
        (fitted if calibrates else trained).update(of_record)
    out = {}
    for patient in patients(samples):
        used = FITTED if patient in fitted else UNSEEN if records else NO_RECORD
        out[patient] = TRAINED if patient in trained else used
    return out


def steps_made(model: str) -> str:
    """Stage and steps of each training that weights have a record of."""
    found = records_of(model).items()
    return (
        ", ".join(f"{stage} {r['steps']}" for stage, r in found if "steps" in r) or "not recorded"
    )

"""Step 6 of the road: the versioned JSON schema of a report, and its check."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import jsonschema

from medic_ad.errors import MedicADError
from medic_ad.finding import CHANGES, DECISIONS
from medic_ad.lesions import KINDS, Tolerance

SCHEMA_NAME = "medic-ad/report/5"
NOTICE = "Research use only. Not a medical device."
FINDINGS_ARE = {
    "abnormal": "findings",
    "uncertain": "possible findings",
    "normal": "evidence below the decision",
    "out_of_scope": "none",
}

_TEXT = {"type": "string"}
_MAYBE_TEXT = {"type": ["string", "null"]}
_NUMBER = {"type": "number"}
_MAYBE_NUMBER = {"type": ["number", "null"]}
_MAYBE_PROBABILITY = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_MAYBE_SIZE = {"type": ["number", "null"], "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0}
_MAYBE_DATE = {"type": ["string", "null"], "pattern": r"^\d{4}-\d{2}-\d{2}$"}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(optional: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """An object with exactly these members, all required but the optional ones."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _array(items: dict[str, Any], low: int, high: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": low, "maxItems": high}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_BAND = _or_null(_array(_MAYBE_PROBABILITY, 2, 2))

PROVENANCE = _object(
    medic_ad=_TEXT,
    model=_TEXT,
    weights_sha256=_SHA256,
    base=_MAYBE_TEXT,
    scope_entry=_MAYBE_TEXT,
    score=_object(slope=_MAYBE_NUMBER, heatmap_slope=_MAYBE_NUMBER, offset=_MAYBE_NUMBER),
    change_temperature=_MAYBE_NUMBER,
    threshold=_MAYBE_PROBABILITY,
    uncertain_band=_BAND,
    heatmap_threshold=_MAYBE_PROBABILITY,
    prevalence=_MAYBE_PROBABILITY,
    gate=_object(distance=_MAYBE_NUMBER, limit=_MAYBE_NUMBER, reason=_MAYBE_TEXT),
    device=_TEXT,
    dtype=_TEXT,
    attention=_TEXT,
    libraries={"type": "object", "additionalProperties": _TEXT},
    inputs={
        "type": "array",
        "minItems": 1,
        "items": _object(
            role={"enum": ["current", "prior"]},
            path=_TEXT,
            sha256=_SHA256,
            format=_TEXT,
            notes=_TEXTS,
        ),
    },
    licence=_MAYBE_TEXT,
    created={"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T"},
    research_use={"const": NOTICE},
)

_FINDING = _object(
    score={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    box={"type": "array", "items": _COUNT, "minItems": 4, "maxItems": 6},
    centroid=_array(_NUMBER, 2, 3),
    area_px=_COUNT,
    voxels=_COUNT,
    area_mm2=_MAYBE_NUMBER,
    volume_ml=_MAYBE_NUMBER,
    diameter_mm=_MAYBE_NUMBER,
    longest_mm=_MAYBE_NUMBER,
    key_slice={"type": ["integer", "null"], "minimum": 0},
    slice_range=_or_null(_array(_COUNT, 2, 2)),
    location=_TEXT,
    cell=_array({"type": "integer", "minimum": 0, "maximum": 2}, 2, 2),
)

_SCORES = _or_null(
    _object(optional=("not_comparable",), **{name: _MAYBE_PROBABILITY for name in CHANGES})
)

_CHANGE = _object(
    label={"enum": list(CHANGES)},
    scores=_SCORES,
    reason=_MAYBE_TEXT,
    mixed={"type": "boolean"},
    prior_date=_MAYBE_DATE,
    current_date=_MAYBE_DATE,
    alignment={"type": "object"},
    map=_or_null(_object(minimum=_MAYBE_NUMBER, maximum=_MAYBE_NUMBER, looked=_MAYBE_PROBABILITY)),
)

_NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 1}}
_PAIR_OF_SIZES = _array(_MAYBE_SIZE, 2, 2)
_GROWTH: dict[str, Any] = dict(
    change=_MAYBE_NUMBER,
    percent=_MAYBE_NUMBER,
    per_year=_MAYBE_NUMBER,
    percent_per_year=_MAYBE_NUMBER,
)

_TOLERANCE: dict[str, Any] = {field.name: _NUMBER for field in fields(Tolerance)}
# Sizes and loads in `unit`, null where none is known; lists run over the dates or over the pairs.
_COURSE = _object(
    unit={"enum": ["ml", "mm2", None]},
    tolerance=_or_null(_object(**_TOLERANCE)),
    dates={
        "type": "array",
        "minItems": 2,
        "items": _object(
            date=_MAYBE_DATE,
            score=_MAYBE_PROBABILITY,
            decision={"enum": list(DECISIONS)},
            uncertain_band=_BAND,
            lesions={"type": ["integer", "null"], "minimum": 0},
            load=_MAYBE_SIZE,
        ),
    },
    pairs={
        "type": "array",
        "minItems": 1,
        "items": _object(
            label={"enum": list(CHANGES)},
            scores=_SCORES,
            reason=_MAYBE_TEXT,
            mixed={"type": "boolean"},
            alignment={"type": "object"},
            load_label={"enum": list(CHANGES)},
            load_mixed={"type": "boolean"},
            loads=_PAIR_OF_SIZES,
            changes={
                "type": "array",
                "items": _object(
                    kind={"enum": list(KINDS)},
                    before=_NUMBERS,
                    after=_NUMBERS,
                    sizes=_PAIR_OF_SIZES,
                    **_GROWTH,
                ),
            },
        ),
    },
    lesions={
        "type": "array",
        "items": _object(
            id={"type": "integer", "minimum": 1},
            kinds={"type": "array", "items": {"enum": [*KINDS, None]}},
            percents={"type": "array", "items": _MAYBE_NUMBER},
            sizes={"type": "array", "items": _MAYBE_SIZE},
            longest_mm={"type": "array", "items": _MAYBE_SIZE},
            **_GROWTH,
        ),
    },
)

_STUDY = _object(
    identity_sha256=_SHA256,
    identity_verified={"type": "boolean"},
    modality=_MAYBE_TEXT,
    body_part=_MAYBE_TEXT,
    date=_MAYBE_DATE,
    grid={"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 3},
    spacing_mm={"type": ["array", "null"], "items": _NUMBER, "minItems": 2, "maxItems": 3},
    orientation_known={"type": "boolean"},
    priors={"type": "array", "items": _object(identity_sha256=_SHA256, date=_MAYBE_DATE)},
)

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": SCHEMA_NAME,
    **_object(
        schema={"const": SCHEMA_NAME},
        notice={"const": NOTICE},
        study=_STUDY,
        score=_MAYBE_PROBABILITY,
        slice_scores={"type": ["array", "null"], "items": _MAYBE_PROBABILITY},
        decision={"enum": list(DECISIONS)},
        heatmap=_object(
            threshold=_MAYBE_PROBABILITY,
            maximum=_MAYBE_PROBABILITY,
            mean=_MAYBE_PROBABILITY,
            pixels_above=_COUNT,
            looked={"type": "number", "minimum": 0, "maximum": 1},
        ),
        findings_are={"enum": list(FINDINGS_ARE.values())},
        findings={"type": "array", "items": _FINDING},
        change=_or_null(_CHANGE),
        course=_or_null(_COURSE),
        question=_MAYBE_TEXT,
        answer=_MAYBE_TEXT,
        text=_TEXT,
        warnings=_TEXTS,
        provenance=PROVENANCE,
    ),
}


def validate(document: Any, schema: dict[str, Any] = SCHEMA) -> None:
    """Raise MedicADError with the place and the first fault when a document breaks the schema."""
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(document)
    )
    if error is not None:
        place = "/".join(str(step) for step in error.absolute_path) or "the document"
        raise MedicADError(f"The report does not follow {SCHEMA_NAME}: {place}: {error.message}.")

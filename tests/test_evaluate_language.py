"""`evaluate language`: answers counted, worded and held against the stock class."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import evaluate_cases as cases
import numpy as np
import pytest
import table_cases
import tiny
from nltk.translate.bleu_score import corpus_bleu
from table_cases import figures, value

from medic_ad.data.sample import read_info, read_samples, write_samples
from medic_ad.errors import DataError
from medic_ad.evaluate import language
from medic_ad.evaluate.figures import questions, texts
from medic_ad.evaluate.parts import forgetting
from medic_ad.evaluate.parts.agreement import TITLE, pictured
from medic_ad.evaluate.predictions import answers, run
from medic_ad.look import say
from medic_ad.model.modeling import MedicADForConditionalGeneration

ASKED = [("Is there an anomaly?", "Yes"), ("Where is it?", "In the upper left."),
         ("Is the scan normal?", "no")]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads a split, each asked three questions."""
    path = table_cases.table(tmp_path_factory.mktemp("asked"), {"train": 12, "test": 12})
    rows = [
        dataclasses.replace(s, question=q, answer=a) for s in read_samples(path) for q, a in ASKED
    ]
    return write_samples(rows, path, read_info(path))


def measured(data: Path, out: Path, monkeypatch: Any, **more: Any) -> dict[str, Any]:
    model = cases.tiny_model()
    monkeypatch.setattr(run, "load_model", lambda name: model)
    arguments = language.LanguageArguments(
        str(data), "tiny", out=str(out), resamples=40, texts=2, **more
    )
    language.main(arguments)
    return figures(out, "language")


def test_texts_that_nothing_is_known_to_hold_against_are_said_to_be_left_out(
    data, tmp_path, monkeypatch, capsys
):
    rows = [dataclasses.replace(s, label=math.nan, mask=None) for s in read_samples(data)]
    path = write_samples(rows, tmp_path / "asked.parquet", read_info(data))
    monkeypatch.setattr(answers, "say", lambda *_: "Perhaps.")
    seen = measured(path, tmp_path / "out", monkeypatch)
    [part] = [p for p in seen["parts"] if p["title"] == TITLE]
    assert part["figures"] == [] and "label or mask" in part["notes"][0]
    assert "no image of split 'test' has a known label or mask" in capsys.readouterr().out
    page = (tmp_path / "out/language/figures.md").read_text()
    assert part["notes"][0] in page and "Seed ." not in page


def test_images_that_are_all_out_of_scope_are_said_to_be_left_out(data, tmp_path, monkeypatch):
    model = cases.tiny_model()
    model.network.calibration.gate_limit.fill_(-1.0)
    monkeypatch.setattr(cases, "tiny_model", lambda: model)
    monkeypatch.setattr(answers, "say", lambda *_: "Perhaps.")
    seen = measured(data, tmp_path, monkeypatch)
    [part] = [p for p in seen["parts"] if p["title"] == f"{TITLE}, tiny"]
    assert part["figures"] == []
    assert "all 2 images are out of the scope of tiny" in part["notes"][0]
    assert part["notes"][0] in (tmp_path / "language/figures.md").read_text()


def test_right_answers_and_unparsable_ones_are_counted(data, tmp_path, monkeypatch):
    truth = dict(ASKED)

    def said(model: Any, question: str, looks: Any, change: Any, stages: bool) -> str:
        return f"{truth[question]}." if stages else "Perhaps."

    monkeypatch.setattr(answers, "say", said)
    seen = measured(data, tmp_path, monkeypatch)
    with_tokens, without = f"tiny, {language.WITH}", f"tiny, {language.WITHOUT}"
    for name in ("accuracy", "accuracy, closed (yes or no)", "accuracy, open (the very words)"):
        assert value(seen, name, with_tokens)["value"] == 1, name
        assert value(seen, name, without)["value"] == 0, name
    assert value(seen, "unparsable answers", with_tokens)["value"] == 0
    assert value(seen, "unparsable answers", without)["value"] == pytest.approx(2 / 3)
    difference = value(seen, "accuracy", "tiny, with - without")
    assert difference["value"] == 1 and difference["p"] < 0.1 and difference["units"] == 12
    # one answer for every question of a kind: a model without eyes knows them all
    assert value(seen, "accuracy", language.USUAL)["value"] == 1
    assert seen["beats_baseline"] is False
    assert value(seen, "BLEU-1", with_tokens)["value"] == pytest.approx(1)
    assert value(seen, "ROUGE-L (F1)", without)["value"] == 0


def test_without_stage_tokens_the_logits_are_the_stock_class_s(data, tmp_path, monkeypatch):
    seen = measured(data, tmp_path / "a", monkeypatch)
    without = f"tiny, {language.WITHOUT}"
    name = "logits equal the stock class's, bit for bit"
    assert value(seen, name, without)["value"] == 1
    assert value(seen, language.MOVED, without)["value"] == 0
    assert value(seen, language.MOVED, f"tiny, {language.WITH}")["value"] > 0
    forward = MedicADForConditionalGeneration.forward

    @functools.wraps(forward)
    def forgetful(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.001
        return out

    monkeypatch.setattr(MedicADForConditionalGeneration, "forward", forgetful)
    seen = measured(data, tmp_path / "b", monkeypatch)
    assert value(seen, name, without)["value"] == 0


def test_answers_are_those_of_the_road_and_kept(data, tmp_path, monkeypatch):
    seen = measured(data, tmp_path, monkeypatch)
    model = cases.tiny_model()
    with (tmp_path / "language" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    sample = answers.questions_of(str(data), "test")[4]
    looks, change = answers.look_at(model, sample)
    assert rows[4]["said_with_tokens"] == say(model, str(sample.question), looks, change)
    monkeypatch.setattr(answers, "say", None)  # a second run asks nothing
    assert measured(data, tmp_path, monkeypatch)["parts"] == seen["parts"]


def test_the_stock_class_holds_no_second_copy_of_the_weights():
    network = cases.tiny_model().network
    stock = dict(forgetting.stock_of(network).named_parameters())
    ours, shared = dict(network.named_parameters(remove_duplicate=False)), 0
    for name, parameter in stock.items():
        assert parameter.data_ptr() == ours[name].data_ptr(), name
        shared += 1
    assert shared > 30


def test_a_stock_checkpoint_is_asked_and_has_forgotten_nothing(tmp_path):
    """Any Qwen2.5-VL folder, never trained or calibrated here."""
    tiny.published_checkpoint(tmp_path / "stock")
    path = table_cases.table(tmp_path / "heads", {"test": 2})
    rows = [
        dataclasses.replace(s, question=ASKED[0][0], answer=ASKED[0][1]) for s in read_samples(path)
    ]
    write_samples(rows, path, read_info(path))
    arguments = language.LanguageArguments(
        str(path), str(tmp_path / "stock"), out=str(tmp_path / "out"), resamples=20
    )
    language.main(arguments)
    seen = figures(tmp_path / "out", "language")
    without = f"stock, {language.WITHOUT}"
    assert value(seen, "logits equal the stock class's, bit for bit", without)["value"] == 1
    assert value(seen, "accuracy", without)["n"] == 2
    assert not [p for p in seen["parts"] if p["title"].startswith("Text beside map")]


def test_two_labels_of_one_image_are_an_error_and_not_an_image_less(tmp_path):
    path = table_cases.table(tmp_path, {"test": 4})
    rows = read_samples(path)
    write_samples([*rows, dataclasses.replace(rows[0], label=1.0)], path, read_info(path))
    with pytest.raises(DataError, match="expected one label"):
        pictured(str(path), "test", 3)


def test_kinds_of_questions_are_the_types_of_templated_sets():
    asked = [
        "what has changed compared to the reference image?", "where in the image is the edema?",
        "what level is the edema?", "is there evidence of edema in this image?", "Is/are there?",
    ]  # fmt: skip
    found = questions.kinds([q for q in asked for _ in range(10)] + ["Could it be?"])
    assert found[::10].tolist() == ["what has", "where in", "what level", "is there", "is there",
                                    questions.OTHER]  # fmt: skip


def test_case_punctuation_and_articles_do_not_count():
    truths = ["The Left lung.", "yes", "no", "yes"]
    said = ["left lung", "Yes, it is.", "There is none", ""]
    assert questions.right(said, truths).tolist() == [True, True, False, False]
    assert questions.unparsable(said, truths).tolist() == [False, False, True, True]
    assert questions.unparsable([" ."], ["left"]).tolist() == [True]


def longest_common(a: list[str], b: list[str]) -> int:
    best = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1, j + 1] = best[i, j] + 1 if x == y else max(best[i, j + 1], best[i + 1, j])
    return int(best[-1, -1])


def test_text_metrics_equal_second_references():
    truths = ["new opacity in left lower lobe", "heart is of normal size now", "no change at all"]
    said = ["opacity in left upper lobe", "heart is of normal size now", "large effusion on right"]
    found = texts.statistics(said, truths)
    ones = np.ones(3)
    splits = [[t.split()] for t in truths], [s.split() for s in said]
    for order in texts.ORDERS:
        expected = corpus_bleu(*splits, weights=[1 / order] * order)
        assert found[f"BLEU-{order}"](ones) == pytest.approx(expected), order
    each = []
    for s, t in zip(said, truths, strict=True):
        common = longest_common(s.split(), t.split())
        each.append(2 * common / (len(s.split()) + len(t.split())))
    assert found["ROUGE-L (F1)"](ones) == pytest.approx(np.mean(each))
    only = np.array([0.0, 1.0, 0.0])  # the very words, of four and more
    assert found["CIDEr"](only) == pytest.approx(10) and found["BLEU-4"](only) == pytest.approx(1)
    chunk = 1 - 0.5 * (1 / 6) ** 3  # METEOR of one chunk of six words
    assert found[texts.METEOR](only) == pytest.approx(chunk)
    assert found["CIDEr"](np.array([0.0, 0.0, 1.0])) == 0


def test_text_and_map_are_read_where_there_are_no_questions(tmp_path, monkeypatch):
    data = table_cases.table(tmp_path, {"test": 6})
    seen = measured(data, tmp_path / "out", monkeypatch)
    [part] = seen["parts"]
    assert part["title"] == "Text beside map and decision, tiny" and "2 images" in part["notes"][0]
    assert seen["verdict"] == "No questions in this split."

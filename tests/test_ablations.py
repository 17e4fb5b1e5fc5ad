"""Ablations: each variation changes what it says and nothing else; the table resumes."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from table_cases import figures

from medic_ad.data.blend import TEST_BLENDS, TRAIN_BLENDS
from medic_ad.data.inpaint import TEST_INPAINTERS, TRAIN_INPAINTERS
from medic_ad.errors import DataError
from medic_ad.evaluate.ablations import ablations, bare, bench, measure, variations
from medic_ad.evaluate.ablations.rows import PARTS, ROWS, Row
from medic_ad.evaluate.material import made_pairs
from medic_ad.evaluate.material.twins import METHOD
from medic_ad.evaluate.predictions.sources import reachable
from medic_ad.load import Model
from medic_ad.look import compare, look
from medic_ad.train import detect, trainer
from medic_ad.train.render import render


def varied(vary: Any, **config: Any) -> Model:
    network = tiny.network(**config)
    vary(network)
    return Model("varied", network, tiny.processor(), "")


def test_a_softmax_shares_one_unit_among_the_patches_and_sigmoids_do_not() -> None:
    plain, shared = (
        look(varied(vary), tiny.canvases(2)).detected[0]
        for vary in (variations.nothing, variations.softmax)
    )
    assert plain.abnormal.shape == shared.abnormal.shape
    units = shared.abnormal.sigmoid().sum((-2, -1))
    torch.testing.assert_close(units, torch.ones_like(units), atol=1e-3, rtol=0)
    assert (plain.abnormal.sigmoid().sum((-2, -1)) - 1).abs().min() > 0.1


def test_scrambled_taps_are_the_same_patches_at_other_places() -> None:
    plain, mixed = (
        look(varied(vary), tiny.canvases(2)).vision.taps[1].flatten(-2)
        for vary in (variations.nothing, variations.scrambled)
    )
    moved = (plain != mixed).any(0).any(0)
    assert 0.5 < moved.float().mean() < 1  # some patches keep their place
    torch.testing.assert_close(plain.sort(-1).values, mixed.sort(-1).values)
    network = tiny.network()
    canvas = torch.zeros(1, tiny.SIDE, tiny.SIDE)
    seen = network.encode(**tiny.processor().images(canvas, network.config))
    assert seen.taps[0].shape[-2:] == (8, 8)  # windows of 4 x 4: row 0 holds a whole window's half


def test_without_ano_every_image_says_the_same_and_without_the_condition_the_map_is_deaf() -> None:
    same = look(varied(variations.without_ano), tiny.canvases(2)).detected
    other = look(varied(variations.nothing), tiny.canvases(2)).detected
    assert torch.equal(same[0].embeds, same[1].embeds)
    assert not torch.equal(other[0].embeds, other[1].embeds)
    for vary, deaf in ((variations.nothing, False), (variations.heatmap_without_ano, True)):
        model = varied(vary)
        seen = look(model, tiny.canvases(1))
        [louder] = seen.detected
        louder = type(louder)(**{**louder, "embeds": louder.embeds.flip(0) * 3})
        again = torch.stack(model.network.explain(seen.vision, [louder])).sigmoid()
        assert torch.equal(again, seen.heatmaps) == deaf


def test_the_gain_stays_at_zero_through_training() -> None:
    network = tiny.network()
    variations.without_modulation(network)
    optimiser = torch.optim.AdamW(network.detector.parameters(), lr=0.1, weight_decay=0.1)
    vision = network.encode(**tiny.processor().images(tiny.canvases(2), network.config))
    before = network.detector.score_top.item()
    torch.stack([d.logit + d.embeds.sum() for d in network.detect(vision)]).sum().backward()
    optimiser.step()
    assert network.detector.gain.item() == 0 and network.detector.score_top.item() != before


def test_only_the_antisymmetric_head_inverts_its_answer() -> None:
    for vary, inverts in (
        (variations.nothing, True),
        (variations.without_subtraction, True),
        (variations.one_way, False),
    ):
        model = varied(vary)
        a, b = (look(model, c[None]) for c in tiny.canvases(2))
        there, back = compare(model, a, b).logits, compare(model, b, a).logits
        assert torch.equal(there, back.flip(0)) == inverts
    plain, bare_ = (
        compare(m, look(m, tiny.canvases(1)), look(m, tiny.canvases(1, seed=1))).embeds
        for m in (varied(variations.nothing), varied(variations.without_subtraction))
    )
    assert not torch.allclose(plain, bare_)


def test_the_one_way_head_counts_what_the_map_shows_before_any_training(monkeypatch) -> None:
    model = varied(variations.one_way)
    a, b = (look(model, c[None]) for c in tiny.canvases(2))
    for growth, decline, label in ((8.0, -8.0, 0), (-8.0, -8.0, 1), (-8.0, 8.0, 2)):
        drawn = iter((growth, decline))

        def forward(first: tuple, second: tuple, drawn: Any = drawn) -> torch.Tensor:
            return torch.full((1, 64, 64), next(drawn))

        monkeypatch.setattr(model.network.comparer.change_map, "forward", forward)
        assert int(compare(model, a, b).logits.argmax()) == label


def test_every_row_differs_from_its_reference_by_one_thing_and_stands_in_one_part() -> None:
    names = {row.name: row for row in ROWS}
    assert len(names) == len(ROWS) == 16
    for row in ROWS:
        other = names[row.against]
        assert (other.stage, other.bare) == (row.stage, row.bare)
        kinds = (row.vary is not other.vary, row.arguments != other.arguments)
        changes = sum(kinds) + (row.config != other.config)
        assert changes == (0 if row is other else 1), row.name
    firsts = [name for opening, _ in PARTS.values() for name in opening]
    assert all(sum(r.name == f or r.against == f for f in firsts) for r in ROWS)
    assert set(firsts) >= {row.against for row in ROWS}


def test_intervals_over_seeds_are_students() -> None:
    figure = ablations.over_seeds("x", "row", [0.1, 0.2, 0.3], 9, "val")
    assert figure.value == pytest.approx(0.2) and figure.interval is not None
    # 4.3027 is the quantile of two degrees of freedom, from a table
    assert figure.interval[1] - 0.2 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_the_base_is_made_without_a_look_at_masks_and_labels(tmp_path, monkeypatch) -> None:
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)

    class Blind:
        image = np.full((3, 16, 16), 200, np.uint8)

        def __len__(self) -> int:
            return 3

    assert bare.batch_of(Blind(), 4, rng, generator).shape == (4, 16, 16)  # type: ignore[arg-type]


def test_what_the_base_took_is_the_sum_of_its_two_trainings(tmp_path: Path) -> None:
    for name, seconds in (("vision", 90.0), ("language", 30.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.run.json").write_text(json.dumps({"cpu_seconds": seconds}))
    assert bare.cpu_seconds(tmp_path) == 120


@pytest.fixture
def arguments(tmp_path: Path) -> ablations.AblationsArguments:
    data, model = tiny.table(tmp_path / "data", held_out=15), tmp_path / "model"
    tiny.network(shaken=False).save_pretrained(model)
    tiny.processor().save_pretrained(model)
    return ablations.AblationsArguments(
        data=str(data), model=str(model), out=str(tmp_path / "out"), seeds=2, cpu_seconds=0.7,
        base_steps=3, batch=4, images=8, pairs=6, bf16=False, cache=str(tmp_path / "cache"),
    )  # fmt: skip


def test_the_whole_table_runs_and_resumes(arguments, tmp_path: Path, monkeypatch) -> None:
    ticks = itertools.count(step=0.1)  # a clock that every look at it moves: 3 steps a run
    monkeypatch.setattr(trainer, "time", SimpleNamespace(process_time=lambda: next(ticks)))
    judge = ablations.Bench.judge
    judged: list[str] = []

    def counted(bench: ablations.Bench, trained: Model, stage: str) -> Any:
        if len(judged) == 4:
            raise KeyboardInterrupt
        judged.append(trained.name)
        return judge(bench, trained, stage)

    monkeypatch.setattr(ablations.Bench, "judge", counted)
    with pytest.raises(KeyboardInterrupt):
        ablations.main(arguments)
    monkeypatch.setattr(ablations.Bench, "judge", judge)
    runs = tmp_path / "out" / "runs"
    kept = {p: p.stat().st_mtime_ns for p in runs.glob("*/figures.json")}
    assert len(kept) == 4
    ablations.main(arguments)
    assert len(list(runs.glob("*/figures.json"))) == 32
    assert all(p.stat().st_mtime_ns == then for p, then in kept.items())
    assert len(list(runs.glob("*/weights"))) == 6 and not list(runs.glob("*/training"))
    found = figures(tmp_path / "out", "ablations")
    assert [p["title"] for p in found["parts"]] == [*PARTS, "Stages"]
    rows = {f["of"] for p in found["parts"] for f in p["figures"]}
    assert rows >= {row.name for row in ROWS} | {"stages 1", "stages 1+2", "stages 1+2+3"}
    assert "0.7 CPU seconds" in found["verdict"] and "none of them: 3 steps" in found["verdict"]
    [base] = runs.glob("bare-*")
    assert bare.cpu_seconds(base) > 0
    every = [f for p in found["parts"] for f in p["figures"]]
    swap = [f for f in every if f["name"] == "swap consistency"]
    assert next(f for f in swap if f["of"] == "stage 2")["value"] == 1
    whole = {f["name"] for f in every if f["of"] == "stages 1+2+3"}
    assert whole >= {"image AUROC", "swap consistency", "mean Dice at 0.5"}
    # 8 lesions in 3 versions, half of them judged; 6 pairs; a pixel figure is of lesions and shams
    n = {name: {f["n"] for f in every if f["name"] == name} for name in whole}
    assert n["image AUROC"] == {12} and n["swap consistency"] == {6}
    assert n["mean Dice at 0.5"] == {8}
    assert n["heatmap that stays with a lesion-free <Ano>"] == {4}
    stands_on_stage_two(runs)


def stands_on_stage_two(runs: Path) -> None:
    """Stage 3 has the comparer that stage 2 trained, not the fresh one of stage 1."""
    [one, two, three] = (
        load_file(next(runs.glob(f"stage-{k}-0-*")) / "weights/model.safetensors")
        for k in (1, 2, 3)
    )
    names = [name for name in two if name.startswith("comparer.")]
    assert names and all(torch.equal(two[name], three[name]) for name in names)
    assert not all(torch.equal(one[name], two[name]) for name in names)


def test_a_run_is_known_by_row_arguments_and_sources(arguments, monkeypatch) -> None:
    model = Model("tiny", tiny.network(), tiny.processor(), "1" * 64)

    def name(row: Row, **changed: Any) -> str:
        asked = dataclasses.replace(arguments, **changed)
        return ablations.Bench(asked, model).folder(row, 0, "").name

    first = name(ROWS[0])
    assert name(ROWS[0]) == first and name(ROWS[0], seeds=3) == first
    other = dataclasses.replace(ROWS[0], arguments={"hint_weight": 2.0})
    assert len({first, name(other), name(ROWS[1]), name(ROWS[0], cpu_seconds=5.0)}) == 4
    monkeypatch.setattr(bench, "MADE_WITH", "other sources")
    assert name(ROWS[0]) != first
    files = {p.name for p in reachable("medic_ad.evaluate.ablations.bench")}
    assert {"detect.py", "draw.py", "losses.py", "modeling.py", "measure.py"} <= files
    assert not {"rows.py", "page.py", "ablations.py"} & files


def test_the_test_side_is_made_by_methods_that_training_never_uses(arguments, monkeypatch) -> None:
    used = set()

    def watched(real: Any) -> Any:
        def call(*values: Any) -> Any:
            used.add(values[-1])  # the blend
            return real(*values)

        return call

    for name in ("transplant", "rescale_lesion"):
        monkeypatch.setattr(made_pairs, name, watched(getattr(made_pairs, name)))
    model = Model("tiny", tiny.network(), tiny.processor(), "1" * 64)
    own = bench.Bench(arguments, model)
    pairs = own.pairs
    assert used == {*TEST_BLENDS} and not used & {*TRAIN_BLENDS}
    assert len(pairs["change"]) == len(pairs["image"]) <= arguments.pairs
    samples = own.rendered.samples
    trained = render(samples, tiny.SIDE, Path(arguments.cache))
    inside = trained.mask
    assert (own.rendered.clean[inside] != trained.clean[inside]).mean() > 0.5
    assert METHOD in TEST_INPAINTERS and METHOD not in TRAIN_INPAINTERS


def test_training_ends_within_its_processor_seconds(arguments, tmp_path: Path) -> None:
    values: dict[str, Any] = dict(
        data=arguments.data, model=arguments.model, out=str(tmp_path / "run"), steps=10_000,
        batch=4, workers=0, bf16=False, cache=arguments.cache,
    )  # fmt: skip
    detect.main(detect.DetectArguments(**values, cpu_seconds=2.0))
    record = json.loads((tmp_path / "run" / "detect.run.json").read_text())
    assert 0 < record["steps"] < 10_000 and 1 < record["cpu_seconds"] < 2.5
    with pytest.raises(DataError, match="expected --workers 0 with --cpu-seconds"):
        detect.DetectArguments(**values | {"workers": 1}, cpu_seconds=2.0)


@pytest.mark.parametrize("seconds", [0.0, 181.0])
def test_a_budget_above_three_minutes_is_refused(seconds: float) -> None:
    with pytest.raises(DataError, match="at most 180"):
        ablations.AblationsArguments(data="x", cpu_seconds=seconds)


def test_a_single_seed_is_refused() -> None:
    with pytest.raises(DataError, match="--seeds of 2 or more"):
        ablations.AblationsArguments(data="x", seeds=1)


def test_a_lesion_drawn_exactly_is_judged_so(monkeypatch) -> None:
    """A stand-in that sees everything: figures of a perfect model."""
    masks = np.zeros((12, 16, 16), bool)
    masks[:8, 4:8, 4:8] = True  # lesions as they are and as shams, then their twins
    images = masks.astype(np.float32)
    seen = measure.Validation(images, masks, masks.any((1, 2)).astype(int), np.arange(12) % 2 == 1)

    class Seen:
        def __init__(self, canvases: torch.Tensor) -> None:
            self.logits = canvases.amax((1, 2)) * 4 - 2
            self.evidence, self.heatmaps = self.logits, canvases
            self.detected = [type("D", (), {"map_logits": c[::2, ::2]}) for c in canvases]

    monkeypatch.setattr(measure, "look", lambda model, canvases: Seen(canvases))
    monkeypatch.setattr(measure, "kept_share", lambda *args: (0.0, 4))
    model: Any = None
    found = measure.scans(model, seen, heatmap=True)
    assert found["mean Dice at 0.5"] == found["pixel AUROC of the heatmap"] == (1, 4)
    assert found["image AUROC, joined with the heatmap"] == (1, 6)

"""Step 4, model: Qwen2.5-VL with the stages detect, compare and explain. Sees tensors only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from medic_ad.errors import ModelError
from medic_ad.model.adapters import add_adapters
from medic_ad.model.attention import group_windows
from medic_ad.model.bars import without_bars
from medic_ad.model.batches import by_grid
from medic_ad.model.calibration import Calibration
from medic_ad.model.compare import CompareOutput, Date, DiffProcessor
from medic_ad.model.configuration import MedicADConfig
from medic_ad.model.detect import AnomalyProcessor, DetectOutput
from medic_ad.model.explain import HeatmapDecoder
from medic_ad.model.linear import pack_linears
from medic_ad.model.pixel import unpatchify
from medic_ad.model.taps import raster, raster_order
from medic_ad.sums import RECORD

HEADS = ("detector", "comparer", "explainer", "calibration")


@dataclass
class Vision(ModelOutput):
    """One vision pass over a packed batch; every list has one tensor per image.

    Attributes:
        taps: `(L, Dv, h, w)` tapped features in raster order.
        merged: `(D, h/2, w/2)` merged visual tokens.
        images: `(1, H, W)` the pixels that the tower saw.
        encoder: the tower's output as the language model takes it.
    """

    taps: list[torch.Tensor] = None  # type: ignore[assignment]
    merged: list[torch.Tensor] = None  # type: ignore[assignment]
    images: list[torch.Tensor] = None  # type: ignore[assignment]
    encoder: BaseModelOutputWithPooling = None

    def gate_features(self) -> torch.Tensor:
        """`(images, 2 * Dv)` features of the gate: mean and spread of the tap past the middle.

        Deeper ones forget what kind of image it is, and the spread over the image tells more than
        the mean.
        """
        middle = [tap[len(tap) // 2].flatten(1) for tap in self.taps]
        return torch.stack([torch.cat([m.mean(1), m.std(1)]) for m in middle])


class MedicADForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL that detects, compares and explains (Medic-AD, arXiv 2603.27176).

    Without `<|ano|>` and `<|diff|>` in the prompt it is the stock class, bit for bit, unless its
    language model has adapters.
    """

    config_class = MedicADConfig
    config: MedicADConfig
    _keep_in_fp32_modules_strict = ["calibration"]  # a threshold rounded to bfloat16 is another one

    def __init__(self, config: MedicADConfig) -> None:
        super().__init__(config)
        group_windows(self.model.visual)
        pack_linears(self.model.visual)
        self.add_heads()
        if config.lora_rank:
            add_adapters(self.model.language_model, config.lora_rank)

    def add_heads(self) -> None:
        """Untrained heads of the three stages, and a calibration of NaN."""
        self.detector = AnomalyProcessor(self.config)
        self.comparer = DiffProcessor(self.config)
        self.explainer = HeatmapDecoder(self.config)
        self.calibration = Calibration(
            len(self.config.scope), 2 * self.config.vision_config.hidden_size
        )
        pack_linears(self.detector)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Backbone modules as transformers does; the heads keep their own initialisation."""
        if not any(
            module is m
            for head in HEADS
            if hasattr(self, head)
            for m in getattr(self, head).modules()
        ):
            super()._init_weights(module)

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Save as every model of transformers; `save_checkpoint` adds processor and hashes."""
        (Path(save_directory) / RECORD).unlink(missing_ok=True)  # of what is about to change
        with without_bars():
            super().save_pretrained(save_directory, **kwargs)

    @classmethod
    def from_base(cls, name_or_path: str | Path, **kwargs) -> MedicADForConditionalGeneration:
        """Load a Qwen2.5-VL checkpoint (Lingshu included) and add untrained heads.

        Args:
            name_or_path: Hub name or local folder, sharded safetensors with an index included.
            **kwargs: `dtype`, `device_map`, `attn_implementation` ... of `from_pretrained`, and
                fields of `MedicADConfig`.

        Raises:
            ModelError: backbone keys are missing, the checkpoint has keys of its own, or its
                vocabulary has no row for the stage tokens.
        """
        base = AutoConfig.from_pretrained(name_or_path)
        if base.model_type != "qwen2_5_vl":
            raise ModelError(
                f"expected a Qwen2.5-VL checkpoint (model_type qwen2_5_vl), but {name_or_path} is "
                f"{base.model_type!r}; name a Qwen2.5-VL or Lingshu checkpoint"
            )
        own = {f: kwargs.pop(f) for f in MedicADConfig.__annotations__ if f in kwargs}
        config = MedicADConfig.from_base(base, **own)
        rows, last = config.text_config.vocab_size, max(config.ano_token_id, config.diff_token_id)
        if last >= rows:
            raise ModelError(
                f"expected spare rows for <|ano|> and <|diff|> in the {rows} rows of "
                f"{name_or_path}'s vocabulary, but their ids reach {last}; give ano_token_id and "
                "diff_token_id of unused rows"
            )
        model, info = cls.from_pretrained(
            name_or_path,
            config=config,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        refuse_unfit_keys(info, name_or_path, allow_missing=HEADS)
        # what a checkpoint lacks, from_pretrained leaves as it found it in memory
        model.add_heads()
        for head in HEADS:
            getattr(model, head).to(
                model.model.visual.device, None if head == "calibration" else model.dtype
            )
        return model

    # ------------------------------------------------------------------ the stages
    def encode(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> Vision:
        """One vision pass: patches `(N, C*T*p*p)` and grids `(images, 3)` -> `Vision`."""
        vision = self.config.vision_config
        tower = self.model.visual
        out = tower(
            pixel_values.type(tower.dtype),
            grid_thw=image_grid_thw,
            output_hidden_states=[tap + 1 for tap in self.config.taps],  # 0 is the patch embedding
        )
        levels = [out.hidden_states[tap + 1] for tap in self.config.taps]
        order = raster_order(image_grid_thw, vision).to(pixel_values.device)
        grids = [(h, w) for _, h, w in image_grid_thw.tolist()]
        merge = vision.spatial_merge_size
        counts = [h * w // merge**2 for h, w in grids]
        tokens = out.pooler_output.split(counts)
        patches = pixel_values.split([h * w for h, w in grids])
        return Vision(
            taps=raster(levels, image_grid_thw, order),
            merged=[
                t.T.reshape(-1, h // merge, w // merge)
                for t, (h, w) in zip(tokens, grids, strict=True)
            ],
            images=[unpatchify(p, g, vision) for p, g in zip(patches, grids, strict=True)],
            encoder=BaseModelOutputWithPooling(
                last_hidden_state=out.last_hidden_state, pooler_output=tokens
            ),
        )

    def detect(self, vision: Vision) -> list[DetectOutput]:
        """Stage 1 for every image; no text is generated."""
        return by_grid(self.detector, vision.taps, vision.merged)

    def compare(
        self, vision: Vision, detected: Sequence[DetectOutput], pairs: Sequence[tuple[int, int]]
    ) -> list[CompareOutput]:
        """Stage 2 for pairs `(baseline, follow-up)` of image indexes on one grid each."""

        def date(i: int) -> tuple[torch.Tensor, ...]:
            return (
                detected[i].modulated,
                detected[i].map_logits,
                vision.merged[i],
                vision.images[i],
            )

        columns = [[*date(b), *date(f)] for b, f in pairs]
        return by_grid(
            lambda *x: self.comparer(Date(*x[:4]), Date(*x[4:])), *zip(*columns, strict=True)
        )

    def explain(self, vision: Vision, detected: Sequence[DetectOutput]) -> list[torch.Tensor]:
        """Stage 3: heatmap logits `(H, W)` per image."""
        return by_grid(self.explainer, vision.taps, [d.embeds for d in detected], vision.images)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        diff_pairs: torch.LongTensor | None = None,
        ano_embeds: torch.Tensor | None = None,
        diff_embeds: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ):
        """The language model over text, images and stage tokens.

        Args:
            input_ids: `(B, T)`; `<|image_pad|>`, `<|ano|>` and `<|diff|>` already expanded.
            attention_mask, position_ids, logits_to_keep: the stock class's, named because
                `generate` looks for them in this signature.
            pixel_values, image_grid_thw: the packed images, or neither with `mm_encoder_outputs`.
            diff_pairs: `(pairs, 2)` image indexes (baseline, follow-up) in the order in which
                their `<|diff|>` runs stand; -1 as baseline: no prior.
            ano_embeds: `(A, P * P, D)` in the order in which `<|ano|>` runs stand; computed from
                the images, in order, when absent.
            diff_embeds: `(pairs, P * P, D)`; computed when absent.
        """
        staged = self._staged(input_ids)
        seen = pixel_values is not None or bool(
            mm_encoder_outputs and "image" in mm_encoder_outputs
        )
        if seen and mm_token_type_ids is None:
            raise ModelError(
                "expected mm_token_type_ids with images, got none; without it the positions of the "
                "image tokens are silently replaced, so pass what the processor returns"
            )
        if seen and input_ids is not None and image_grid_thw is not None:
            count = int((input_ids == self.config.image_token_id).sum())
            given = (
                int(image_grid_thw.prod(1).sum()) // self.config.vision_config.spatial_merge_size**2
            )
            if count != given:
                raise ModelError(
                    f"expected {given} places for image tokens, found {count} in the prompt; pass "
                    "the prompt and images as the processor returns them, untruncated"
                )
        if staged:
            if pixel_values is not None:
                mm_encoder_outputs, ano_embeds, diff_embeds = self._see(
                    pixel_values, image_grid_thw, diff_pairs
                )
                pixel_values = None
            inputs_embeds = self.get_input_embeddings()(input_ids)
            inputs_embeds = self._place(
                inputs_embeds, input_ids, self.config.ano_token_id, ano_embeds
            )
            inputs_embeds = self._place(
                inputs_embeds, input_ids, self.config.diff_token_id, diff_embeds
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            mm_token_type_ids=mm_token_type_ids,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def diff_embeds(self, vision, detected, diff_pairs) -> torch.Tensor | None:
        """`<Diff>` embeddings `(pairs, P * P, D)`; no-prior state where the baseline is -1."""
        if diff_pairs is None:
            return None
        pairs = [tuple(pair) for pair in diff_pairs.tolist()]
        real = [pair for pair in pairs if pair[0] >= 0]
        compared = iter(self.compare(vision, detected, real) if real else ())
        return torch.stack(
            [next(compared).embeds if b >= 0 else self.comparer.no_prior for b, _ in pairs]
        )

    def _place(self, inputs_embeds, input_ids, token_id: int, embeds) -> torch.Tensor:
        """Put stage embeddings where their id stands, never at a fixed offset."""
        where = input_ids == token_id
        count, given = int(where.sum()), 0 if embeds is None else embeds.shape[0] * embeds.shape[1]
        if count != given:
            raise ModelError(
                f"expected {given} places for stage embeddings of token {token_id}, found {count} "
                "in the prompt; pass prompt and images as the processor returns them, untruncated"
            )
        if not count:
            return inputs_embeds
        return inputs_embeds.masked_scatter(where[..., None], embeds.to(inputs_embeds.dtype))

    def _staged(self, input_ids: torch.Tensor | None) -> bool:
        """Whether a prompt holds stage tokens; without them this is the stock class."""
        stages = (self.config.ano_token_id, self.config.diff_token_id)
        return input_ids is not None and any(bool((input_ids == i).any()) for i in stages)

    def _see(
        self, pixel_values, image_grid_thw, diff_pairs
    ) -> tuple[dict, torch.Tensor, torch.Tensor | None]:
        """One vision pass: what the language model takes of the images, `<Ano>` and `<Diff>`."""
        vision = self.encode(pixel_values, image_grid_thw)
        detected = self.detect(vision)
        ano_embeds = torch.stack([d.embeds for d in detected])
        return {"image": vision.encoder}, ano_embeds, self.diff_embeds(vision, detected, diff_pairs)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args,
        **kwargs,
    ):
        """The stock `generate`; for prompts with stage tokens one vision pass serves them too.

        transformers encodes the images before it calls `forward`, so the stages are seen here. The
        stage tokens' own ids, which stand for no text, are suppressed whatever the prompt holds,
        beside what the call, its configuration or the model's suppresses, in this order.
        """
        configs = (generation_config, self.generation_config)
        others = [c.suppress_tokens for c in configs if c and c.suppress_tokens is not None]
        own = kwargs.get("suppress_tokens", others[0] if others else None)
        stages = [self.config.ano_token_id, self.config.diff_token_id]
        kwargs["suppress_tokens"] = [*(own or ()), *stages]
        given = kwargs.get("pixel_values") is not None
        if given and self._staged(kwargs.get("input_ids", inputs)):
            kwargs["mm_encoder_outputs"], kwargs["ano_embeds"], kwargs["diff_embeds"] = self._see(
                kwargs.pop("pixel_values"),
                kwargs["image_grid_thw"],
                kwargs.pop("diff_pairs", None),
            )
        return super().generate(inputs, generation_config, *args, **kwargs)

    def prepare_inputs_for_generation(self, *args, is_first_iteration: bool = False, **kwargs):
        inputs = super().prepare_inputs_for_generation(
            *args, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration:  # images and stage tokens live in the cache by now
            for name in ("mm_encoder_outputs", "ano_embeds", "diff_embeds", "diff_pairs"):
                inputs.pop(name, None)
        return inputs


def refuse_unfit_keys(info: dict, name: str | Path, allow_missing: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint whose keys or shapes do not fit.

    Raises:
        ModelError: naming the first key.
    """
    missing = sorted(k for k in info["missing_keys"] if not k.startswith(allow_missing or "\0"))
    unfit = {
        "is missing": missing,
        "is not known to this model": sorted(info["unexpected_keys"]),
        "has another shape": sorted(str(k[0]) for k in info["mismatched_keys"]),
    }
    for what, keys in unfit.items():
        if keys:
            raise ModelError(
                f"expected weights that fit the configuration, but in {name} {keys[0]!r} {what} "
                f"({len(keys)} such keys); use the checkpoint that belongs to this configuration"
            )


register_checkpoint_conversion_mapping(
    "MedicADForConditionalGeneration",
    get_checkpoint_conversion_mapping("Qwen2_5_VLForConditionalGeneration"),
    overwrite=True,
)
AutoConfig.register("medic_ad", MedicADConfig, exist_ok=True)
AutoModelForImageTextToText.register(MedicADConfig, MedicADForConditionalGeneration, exist_ok=True)

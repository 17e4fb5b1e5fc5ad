"""Step 4, model: the configuration of the backbone and of the three stages."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict
from transformers import Qwen2_5_VLConfig


@strict
class MedicADConfig(Qwen2_5_VLConfig):
    """Qwen2.5-VL's configuration plus the stage heads (Medic-AD, arXiv 2603.27176).

    Args:
        ano_token_id: id of `<|ano|>`; a spare row of the vocabulary.
        diff_token_id: id of `<|diff|>`.
        pooled_size: P; each stage token stands for `P * P` embeddings.
        system_dim: width in which the two system tokens attend to the patches.
        qformer_hidden_size: width of both Q-Formers.
        qformer_layers: layers of both Q-Formers.
        qformer_heads: attention heads of both Q-Formers.
        heatmap_channels: width of the fusion block and of the ConvNeXt blocks (stage 3).
        pixel_channels: widths of the pixel branch at strides 2, 4, 8 ...; the change map takes the
            first two.
        image_size: side in pixels of the square that the processor fits an image into.
        scope: names of the calibrated scope entries, e.g. "brain MR T1-CE"; anything else is
            out of scope. Empty until fitted.
        scope_modalities, scope_body_parts: DICOM codes and terms that a file may state to be in
            scope; filled with `scope`.
        image_tap_indexes: vision blocks whose outputs are tapped; `None` means the blocks
            that attend globally.
        lora_rank: rank of the adapters in the language model; 0 for none, and only then a prompt
            without stage tokens is answered as the backbone answers it.
    """

    model_type = "medic_ad"

    ano_token_id: int = 151665
    diff_token_id: int = 151666
    pooled_size: int = 4
    system_dim: int = 512
    qformer_hidden_size: int = 768
    qformer_layers: int = 2
    qformer_heads: int = 12
    heatmap_channels: int = 256
    pixel_channels: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    image_size: int = 448
    scope: list[str] | tuple[str, ...] = ()
    scope_modalities: list[str] | tuple[str, ...] = ()
    scope_body_parts: list[str] | tuple[str, ...] = ()
    image_tap_indexes: list[int] | tuple[int, ...] | None = None
    lora_rank: int = 0

    @property
    def taps(self) -> tuple[int, ...]:
        """Indexes of the tapped vision blocks."""
        return tuple(self.image_tap_indexes or self.vision_config.fullatt_block_indexes)

    @classmethod
    def from_base(cls, base: Qwen2_5_VLConfig, **own) -> MedicADConfig:
        """A Qwen2.5-VL's configuration with the heads' fields, of which `own` are not as usual."""
        values = {name: value for name, value in base.to_dict().items() if name != "model_type"}
        return cls(**{**values, **own})

"""runs/configs/zero2.json is what accelerate takes; DeepSpeed itself is not needed to read it."""

from __future__ import annotations

from pathlib import Path

from accelerate.utils.deepspeed import HfDeepSpeedConfig

FILE = Path(__file__).parents[1] / "runs/configs/zero2.json"


def test_the_example_divides_gradients_and_takes_its_numbers_from_the_run() -> None:
    config = HfDeepSpeedConfig(str(FILE))
    assert config.is_zero2() and not config.is_offload()
    from_the_run = (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "bf16.enabled",
    )
    assert {config.get_value(name) for name in from_the_run} == {"auto"}

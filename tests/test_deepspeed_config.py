"""runs/configs/zero2.json is what transformers takes; DeepSpeed itself is not needed to read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainingArguments
from transformers.integrations import deepspeed

FILE = Path(__file__).parents[1] / "runs/configs/zero2.json"


def test_the_example_takes_every_number_from_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(deepspeed, "dep_version_check", lambda name: None)  # it is not installed
    config = deepspeed.HfTrainerDeepSpeedConfig(str(FILE))
    assert config.is_zero2() and not config.is_offload()
    config.trainer_config_process(
        TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=1, max_grad_norm=0.5,
            gradient_accumulation_steps=4, bf16=True, use_cpu=True,
        )
    )  # fmt: skip
    assert config.mismatches == []
    assert config.get_value("train_micro_batch_size_per_gpu") == 1
    assert config.get_value("train_batch_size") == 4
    assert config.get_value("gradient_accumulation_steps") == 4
    assert config.get_value("gradient_clipping") == 0.5
    assert config.get_value("bf16.enabled") is True

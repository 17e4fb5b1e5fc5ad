"""Training: the Trainer of all stages, and the end of a run by processor time."""

from __future__ import annotations

import math
import time

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

BESIDE_LOSS = ("grad_norm", "learning_rate", "epoch")  # of the Trainer's log, for TensorBoard


class Bar(ProgressCallback):
    """The Trainer's bar with the last losses in it, instead of a line for each of them."""

    def on_log(self, args, state, control, logs=None, **_):
        if self.training_bar is not None and "loss" in logs:
            losses = {k: v for k, v in logs.items() if k not in BESIDE_LOSS}
            self.training_bar.set_postfix(losses)  # three significant digits


class StageTrainer(Trainer):
    """Trainer whose module returns its own loss and names the parts of it for the log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for other in (ProgressCallback, PrinterCallback):  # one of them, by the verbosity
            self.remove_callback(other)
        self.add_callback(Bar)

    def get_train_dataloader(self) -> DataLoader:
        """`Draws` shares itself out: accelerate would have every process draw everything."""
        return DataLoader(
            self.train_dataset,
            batch_size=None,  # a draw is a batch
            num_workers=self.args.dataloader_num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        out = model(**inputs)
        self.parts = {k: float(v.detach()) for k, v in out.items() if k != "loss"}
        return (out["loss"], out) if return_outputs else out["loss"]

    def log(self, logs, *args, **kwargs):
        super().log({**logs, **getattr(self, "parts", {})}, *args, **kwargs)


def rate(share: float, peak: float) -> float:
    """Learning rate at this share of a budget: warm-up over a twentieth, then cosine."""
    if share < 0.05:
        return peak * max(share, 1e-3) / 0.05
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - 0.05) / 0.95)))


class Budget(TrainerCallback):
    """Ends training before this process has computed for longer; the rate falls until then.

    Args:
        seconds: of all threads of this process, in which batches are drawn, too.
        peak: of the learning rate.
    """

    def __init__(self, seconds: float, peak: float) -> None:
        self.seconds, self.peak = seconds, peak
        self.start = self.last = time.process_time()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
        spent = time.process_time() - self.start
        for group in optimizer.param_groups:
            group["lr"] = rate(spent / self.seconds, self.peak)

    def on_step_end(self, args, state, control, **_):
        now = time.process_time()
        if now + (now - self.last) - self.start >= self.seconds:  # no room for another step
            control.should_training_stop = True
        self.last = now

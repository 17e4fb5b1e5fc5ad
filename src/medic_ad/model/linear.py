"""Step 4, model: the vision tower's matrix products by oneDNN, from weights packed once.

On a CPU torch hands float32 products to MKL, which has no AVX-512 for AMD's processors; oneDNN has
it for all makers, and is about twice as fast there. Both sum in an order of their own, so that
results differ in the last bits: only a block under `packed` computes this way, and all else stays
the stock class's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

_packed: ContextVar[bool] = ContextVar("packed", default=False)


@contextmanager
def packed() -> Iterator[None]:
    """Compute packed layers by oneDNN inside the block; no gradients."""
    token = _packed.set(True)
    try:
        yield
    finally:
        _packed.reset(token)


class PackedLinear(nn.Linear):
    """`nn.Linear` that computes from packed weights under `packed`, on a CPU in float32."""

    # The weights that they were packed from and their version, and the packed ones. To hold the
    # former keeps their address from being given to others.
    _blocks: tuple[torch.Tensor, int, torch.Tensor] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """`(..., in_features)` -> `(..., out_features)`."""
        if not _packed.get() or not self._fits(input):
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self._packed(), self.bias, "none", [], "")

    def _fits(self, input: torch.Tensor) -> bool:
        """Whether this is a product of float32 on a CPU, of weights whose changes torch counts."""
        plain = (x.device.type == "cpu" and x.dtype == torch.float32 for x in (input, self.weight))
        return (
            all(plain) and not torch.is_autocast_enabled("cpu") and not self.weight.is_inference()
        )

    def _packed(self) -> torch.Tensor:
        """The packed weights, made anew when the weights were changed or moved."""
        weight = self.weight.detach()
        if self._blocks is not None:
            source, version, blocks = self._blocks
            if source.data_ptr() == weight.data_ptr() and version == weight._version:
                return blocks
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._blocks = weight, weight._version, blocks
        return blocks

    def _apply(self, fn, recurse: bool = True):
        """Weights that are moved or converted leave no packed ones, and no old ones, behind."""
        self._blocks = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict:
        """Copies and pickles pack for themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "_blocks"}


def pack_linears(tower: nn.Module) -> None:
    """Give a tower's linear layers the packed product, where torch brings it; parameters stay."""
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return
    for module in tower.modules():
        if type(module) is nn.Linear:
            module.__class__ = PackedLinear

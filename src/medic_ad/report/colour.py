"""Step 6 of the road: numbers to colours, by rules that are the same for every image."""

from __future__ import annotations

import numpy as np

from medic_ad.image import Image

INVISIBLE = 0.05  # values nearer to zero than this are fully clear on both scales

# (value, red, green, blue, alpha): anchors of the two scales, linear in between. Both are
# functions of the absolute value and are never stretched to an image; near zero they are clear,
# so that a normal image looks normal.
_HEAT = np.array(
    [
        (0.00, 87, 16, 110, 0.00),
        (INVISIBLE, 97, 19, 110, 0.00),
        (0.30, 176, 48, 92, 0.40),
        (0.55, 226, 88, 54, 0.70),
        (0.80, 250, 155, 30, 0.85),
        (1.00, 252, 228, 110, 0.90),
    ]
)
_CHANGE = np.array(
    [
        (-1.00, 92, 190, 255, 0.90),
        (-0.50, 46, 132, 220, 0.70),
        (-INVISIBLE, 28, 86, 160, 0.00),
        (INVISIBLE, 170, 66, 20, 0.00),
        (0.50, 232, 102, 36, 0.70),
        (1.00, 255, 160, 80, 0.90),
    ]
)
_NOT_LOOKED = (140, 156, 172, 60)
_HATCH_PX = 9
_SAMPLE = 2**22  # voxels that are enough to tell a percentile


def heat_rgba(probability: np.ndarray) -> np.ndarray:
    """Probabilities (H, W) in [0, 1] as uint8 RGBA (H, W, 4); NaN is hatched."""
    return _rgba(probability, _HEAT)


def change_rgba(change: np.ndarray) -> np.ndarray:
    """Signed change (H, W) in [-1, 1] as uint8 RGBA (H, W, 4); NaN is hatched."""
    return _rgba(change, _CHANGE)


def gradient(kind: str) -> str:
    """The scale of "heat" or "change" as the stops of a CSS gradient."""
    anchors = _CHANGE if kind == "change" else _HEAT
    share = (anchors[:, 0] - anchors[0, 0]) / (anchors[-1, 0] - anchors[0, 0])
    return ", ".join(
        f"rgba({r:.0f},{g:.0f},{b:.0f},{a:.2f}) {100 * s:.1f}%"
        for s, (_, r, g, b, a) in zip(share, anchors, strict=True)
    )


def _rgba(values: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    unseen = np.isnan(values)
    filled = np.where(unseen, 0.0, values)
    channels = [np.interp(filled, anchors[:, 0], anchors[:, k]) for k in range(1, 5)]
    channels[3] = channels[3] * 255
    out = np.stack(channels, axis=-1).round().astype(np.uint8)
    rows, cols = np.indices(values.shape)
    out[unseen] = 0
    out[unseen & ((rows + cols) % _HATCH_PX == 0)] = _NOT_LOOKED
    return out


def grey_limits(image: Image) -> tuple[float, float, str]:
    """Black and white points for display, and words that say where they come from."""
    if image.window is not None:
        centre, width = image.window
        words = f"window C {centre:.5g} W {width:.5g}"
        return centre - width / 2, centre + width / 2, words
    step = 1 + image.pixels.size // _SAMPLE
    low, high = (float(v) for v in np.percentile(image.pixels.ravel()[::step], (0.5, 99.5)))
    return low, high, f"grey {low:.4g} to {high:.4g} (0.5th to 99.5th percentile of the image)"


def grey(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Pixels (H, W) as uint8 grey between a black and a white point; NaN is black."""
    scaled = (np.nan_to_num(pixels, nan=low) - low) / max(high - low, 1e-6)
    return (np.clip(scaled, 0.0, 1.0) * 255).round().astype(np.uint8)

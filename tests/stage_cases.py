"""What the vision tower of the tiny model sees in made pictures, looked at once a session."""

from __future__ import annotations

from functools import cache

import tiny

from medic_ad.look import Look, look


@cache
def looks(n: int, seed: int = 0) -> list[Look]:
    """Each canvas by a call of its own, as `read` looks at the two dates."""
    return [look(tiny.model(), canvas[None]) for canvas in tiny.canvases(n, seed)]

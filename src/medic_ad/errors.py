"""Every step of the road: the one error that bad input raises, and its children."""

from __future__ import annotations

import errno
from collections.abc import Iterator

# a path that is wrong, or closed to us, is so tomorrow
OF_PATHS = frozenset(
    (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
)


class MedicADError(Exception):
    """What was expected, what came, what to do, in one sentence."""


def is_passing(error: BaseException) -> bool:
    """Whether the machine failed, as a full disk or memory does: the same may succeed later.

    Its causes are asked too. What a decoder says of damaged data may be an `OSError` as well; the
    system's own have a number. A path's errors do not pass.
    """
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno and cause.errno not in OF_PATHS)
        for cause in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was made of, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


class ReadError(MedicADError):
    """A file cannot be read as an image."""


class StudyError(MedicADError):
    """Files do not form one study, or a prior does not fit its current."""


class ModelError(MedicADError):
    """Weights, names or configuration of a model do not fit."""


class DataError(MedicADError):
    """A training table or the folder of a data set does not fit."""


class NodeError(MedicADError):
    """A setting of the node does not fit, or a peer answers with a refusal."""


class DeidentifyError(MedicADError):
    """A file cannot be de-identified, or its key or output folder does not fit."""


class BatchError(MedicADError):
    """A manifest of studies, or the folder of their results, does not fit."""

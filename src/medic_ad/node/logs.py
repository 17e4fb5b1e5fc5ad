"""Node: log lines as JSON; only named fields get in, so that no patient data can."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

_LOGGER = logging.getLogger("medic_ad.node")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        return json.dumps({**line, "event": record.msg, **getattr(record, "fields", {})})


def start_logs() -> None:
    """One JSON object a line on stderr; the libraries, whose lines name patients, are silent."""
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    _LOGGER.handlers, _LOGGER.propagate = [handler], False
    _LOGGER.setLevel(logging.INFO)
    for library in ("pynetdicom", "pydicom", "dicomweb_client", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)


def log(event: str, *, level: int = logging.INFO, **fields: str | int | float | None) -> None:
    """Log an event by a fixed sentence and fields of the node's own making.

    Job numbers, counts and seconds may be fields. Names, ids, UIDs, dates, descriptions and the
    messages of errors, which quote them, may not; the last stand in the dead-letter folder.
    """
    _LOGGER.log(level, event, extra={"fields": fields})


def failure(error: BaseException) -> dict[str, Any]:
    """What a log may say of an error: its kind and the line of code, not its message."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return {"error": type(error).__name__}
    where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return {"error": type(error).__name__, "at": where}

"""De-identification: what a patient becomes, from a secret that never leaves this machine."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid

from medic_ad.errors import DeidentifyError

KEY_BYTES = 32
MOST_DAYS = 3650  # dates move back by 1 to this many days


def read_key(path: Path | None) -> bytes:
    """The secret: of a file, which is made when it is not there; without a path a fresh one.

    Raises:
        DeidentifyError: the file is no such key.
    """
    if path is None:
        return secrets.token_bytes(KEY_BYTES)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise DeidentifyError(
            f"{path}: expected a key of {KEY_BYTES} bytes as hexadecimal digits, came something "
            "else; give a path that does not exist to have a key made."
        )
    return key


@dataclass(frozen=True)
class Person:
    """A patient's new id and the shift of all of the patient's dates.

    Attributes:
        key: the secret.
        patient: old patient id; for a file without one, its study's UID stands in.
    """

    key: bytes
    patient: str

    def _digest(self, purpose: str, value: str) -> bytes:
        return hmac.new(self.key, f"{purpose}\0{value}".encode(), hashlib.sha256).digest()

    @property
    def name(self) -> str:
        """The new patient id and name."""
        return f"MA-{self._digest('patient', self.patient)[:6].hex().upper()}"

    @property
    def shift(self) -> datetime.timedelta:
        """What is added to every date: the same for all files of a patient, never nothing."""
        number = int.from_bytes(self._digest("days", self.patient)[:8])
        return -datetime.timedelta(days=1 + number % MOST_DAYS)

    def uid(self, old: str) -> str:
        """The new UID for an old one: the same wherever it is referred to."""
        return generate_uid(entropy_srcs=[self._digest("uid", old).hex()])

    def date(self, old: str) -> str | None:
        """A date (DA) or the date of a moment (DT), shifted; None where it cannot be read."""
        try:
            day = datetime.datetime.strptime(old.strip().replace(".", "")[:8], "%Y%m%d")
            return f"{day + self.shift:%Y%m%d}".zfill(8)
        except (ValueError, OverflowError):
            return None

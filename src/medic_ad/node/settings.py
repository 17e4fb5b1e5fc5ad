"""Node: what a user sets, checked before anything listens."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medic_ad.errors import NodeError
from medic_ad.models import find_checkpoint
from medic_ad.option import option, try_writing

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SILENCE_SECONDS = 60.0  # within a handshake or a message over TLS, before the connection is ended
PEER = "dicom://TITLE@HOST:PORT, dicoms:// with TLS, or the http(s) address of a DICOMweb service"


@dataclass(frozen=True)
class NodeArguments:
    """Everything about a node; the command line and its `--config` file are made of these fields.

    Raises:
        NodeError: a value that does not fit, or an open node without lists of callers.
    """

    folder: Path = field(metadata={"help": "where the queue, received files and results are kept"})
    results: str = field(metadata={"help": f"who gets the results: {PEER}"})
    priors: str = option("", f"who is asked for priors: {PEER}; nobody if not given")
    most_priors: int = option(1, "earlier studies to compare with, the most recent ones")
    model: str = option("nano", "a model's name, a folder of one, or owner/model on the Hub")
    device: str | None = option(None, "cpu, cuda ...; the GPU where there is one if not given")
    workers: int = option(1, "processes that read, each with a model of its own")
    title: str = option("MEDIC_AD", "AE title of this node")
    host: str = option("127.0.0.1", "address to listen on for DICOM")
    port: int = option(11112, "port to listen on for DICOM")
    http_host: str = option("127.0.0.1", "address to listen on for /health and /metrics")
    http_port: int = option(11180, "port to listen on for /health and /metrics")
    callers: str = option("", "AE titles that may call, with commas; any if not given")
    addresses: str = option("127.0.0.0/8,::1", "addresses and networks that may call, with commas")
    certificate: Path | None = option(None, "TLS: PEM file of this node; without it no TLS")
    private_key: Path | None = option(None, "TLS: PEM file of the key to it")
    authorities: Path | None = option(None, "TLS: PEM file of who signs callers and peers")
    settle: float = option(10.0, "seconds without a further image after which a series is whole")
    attempts: int = option(5, "attempts to read and send before a job is given up")
    backoff: float = option(30.0, "seconds before the second attempt; doubled for each further one")
    grace: float = option(60.0, "seconds for work under way when the node is told to stop")
    keep_days: float = option(7.0, "days for which files of finished jobs are kept")

    def __post_init__(self) -> None:
        for name in ("most_priors", "workers", "attempts", "port", "settle", "backoff", "grace"):
            least = 0 if name in ("most_priors", "settle", "backoff", "grace") else 1
            if getattr(self, name) < least:
                raise NodeError(
                    f"expected at least {least} for --{name.replace('_', '-')}, came "
                    f"{getattr(self, name)}; give a larger number."
                )
        for name in ("port", "http_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise NodeError(
                    f"expected a port up to 65535 for --{name.replace('_', '-')}, came "
                    f"{getattr(self, name)}; give another one."
                )
        for title in (self.title, *self.calling):
            if not (title.isascii() and title.isprintable() and 0 < len(title) <= 16):
                raise NodeError(
                    f"expected AE titles of 1 to 16 plain characters, came {title!r}; correct it."
                )
        allowed = self.networks
        if not self.local and (not self.calling or any(n.prefixlen == 0 for n in allowed)):
            raise NodeError(
                f"expected --callers and --addresses for a node that listens on {self.host}, came "
                "none that limit them; name the AE titles and networks that may call."
            )
        if (self.certificate is None) != (self.private_key is None):
            raise NodeError(
                "expected --certificate and --private-key together, came one of them; give both."
            )

    def check(self) -> None:
        """Refuse a missing model and a folder that cannot be written to, before torch is loaded.

        Raises:
            MedicADError: of the first of these.
        """
        find_checkpoint(self.model)
        try_writing(self.folder)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the DICOM port."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def calling(self) -> tuple[str, ...]:
        return _words(self.callers)

    @property
    def networks(self) -> tuple[Network, ...]:
        try:
            return tuple(ipaddress.ip_network(word) for word in _words(self.addresses))
        except ValueError as error:
            raise NodeError(
                f"expected addresses such as 10.1.2.3 or 10.1.0.0/16, came {self.addresses!r}; "
                "correct --addresses."
            ) from error

    def server_tls(self) -> ssl.SSLContext | None:
        """TLS of the listening side; with `authorities` a caller must have a certificate too."""
        if self.certificate is None:
            return None
        context = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        if self.authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_tls(self) -> ssl.SSLContext:
        """TLS of the calling side; peers are checked against `authorities`, else the system's."""
        context = ssl.create_default_context()
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.certificate is not None and self.private_key is not None:
                context.load_cert_chain(self.certificate, self.private_key)
            if self.authorities is not None:
                context.load_verify_locations(self.authorities)
        except (OSError, ssl.SSLError) as error:
            raise NodeError(
                f"expected PEM files for TLS, came ones that cannot be used ({error}); check "
                "--certificate, --private-key and --authorities."
            ) from error


class _LateHandshake(ssl.SSLContext):
    """TLS whose handshake is done by the first read, in the connection's own thread.

    pynetdicom wraps a connection in the thread that accepts all of them, where a caller who says
    nothing would keep out all others.
    """

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock.settimeout(SILENCE_SECONDS)
        return super().wrap_socket(sock, *args, **{**options, "do_handshake_on_connect": False})


def _words(text: str) -> tuple[str, ...]:
    return tuple(_stripped(text.split(",")))


def _stripped(parts: Iterable[str]) -> Iterable[str]:
    return (part.strip() for part in parts if part.strip())

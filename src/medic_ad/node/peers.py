"""Node: who gives priors and takes results, by an address; DICOM or DICOMweb."""

from __future__ import annotations

from urllib.parse import urlsplit

from medic_ad.errors import NodeError
from medic_ad.node.archive import Peer
from medic_ad.node.dicomweb import WebPeer
from medic_ad.node.dimse import DicomPeer
from medic_ad.node.settings import PEER, NodeArguments


def peer_of(address: str, settings: NodeArguments) -> Peer:
    """The peer behind an address.

    Raises:
        NodeError: no address of a known form.
    """
    parts = urlsplit(address.strip())
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme in ("http", "https") and parts.hostname:
        return WebPeer(address.strip(), settings.authorities)
    if parts.scheme in ("dicom", "dicoms") and parts.username and parts.hostname and port:
        tls = settings.client_tls() if parts.scheme == "dicoms" else None
        return DicomPeer(parts.username, parts.hostname, port, settings.title, tls)
    raise NodeError(f"expected {PEER}, came {address!r}; correct --results or --priors.")

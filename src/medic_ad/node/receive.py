"""Node: the DICOM door; success is answered once an image is on the disk and in the queue."""

from __future__ import annotations

import io
import ipaddress
import logging
from pathlib import Path

import pydicom
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from medic_ad.errors import NodeError
from medic_ad.node.logs import failure, log
from medic_ad.node.queue import Queue, key_of
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import Store, put

# What `read` takes. Results (SEG, SR, maps, secondary captures) are not among them, so that an
# archive that forwards everything cannot make the node read its own results.
IMAGES = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    CTImageStorage,
    EnhancedCTImageStorage,
    MRImageStorage,
    EnhancedMRImageStorage,
)
# A deflated data set can be of any size once it is read. Who has one must offer another syntax
# too (PS3.5 10.1), so it is not taken.
SYNTAXES = [uid for uid in ALL_TRANSFER_SYNTAXES if not UID(uid).is_deflated]
SUCCESS, NO_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
NOT_AUTHORISED = 0x0124  # PS3.7 annex C
_NEEDED = ["SOPInstanceUID", "SeriesInstanceUID", "ImagePositionPatient"]


class Receiver:
    """The listening side of a node: C-ECHO and C-STORE."""

    def __init__(self, settings: NodeArguments, queue: Queue, store: Store) -> None:
        self.settings, self.queue, self.store = settings, queue, store
        self.entity = AE(settings.title)
        self.entity.require_called_aet = True
        self.entity.require_calling_aet = list(settings.calling)
        self.entity.maximum_associations = 64
        self.entity.add_supported_context(Verification)
        for sop_class in IMAGES:
            self.entity.add_supported_context(sop_class, SYNTAXES)
        self._networks = settings.networks
        self._server: ThreadedAssociationServer | None = None

    def start(self) -> None:
        """Listen, in threads of this process.

        Raises:
            NodeError: the address cannot be listened on.
        """
        address, tls = (self.settings.host, self.settings.port), self.settings.server_tls()
        handlers = [(evt.EVT_REQUESTED, self._check_address), (evt.EVT_C_STORE, self._store)]
        try:
            self._server = self.entity.start_server(
                address,
                block=False,
                ssl_context=tls,
                evt_handlers=handlers,  # type: ignore[arg-type]
            )
        except OSError as error:
            raise NodeError(
                f"expected an address to listen on, came {address[0]}:{address[1]} "
                f"({error.strerror}); give another --host or --port."
            ) from error

    @property
    def busy(self) -> int:
        """Associations that are open."""
        return len(self.entity.active_associations)

    def close(self) -> None:
        """Take no further association; those that are open go on."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def abort(self) -> None:
        """End what is still open."""
        self.entity.shutdown()

    def _check_address(self, event: Event) -> None:
        address = ipaddress.ip_address(event.assoc.requestor.address or "0.0.0.0")
        address = getattr(address, "ipv4_mapped", None) or address
        if not any(address in network for network in self._networks):
            log("association refused: address", level=logging.WARNING)
            event.assoc.acse.send_reject(0x01, 0x01, 0x01)

    def _store(self, event: Event) -> int:
        try:
            content = event.encoded_dataset()
            header = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_NEEDED))
            uid, series = str(header.SOPInstanceUID), str(header.SeriesInstanceUID)
        except Exception as error:  # damaged data sets make pydicom raise many kinds
            log("instance refused: not understood", level=logging.WARNING, **failure(error))
            return NOT_UNDERSTOOD
        if uid != event.request.AffectedSOPInstanceUID:  # type: ignore[union-attr]
            log("instance refused: another UID inside", level=logging.WARNING)
            return MISMATCH
        # Slices that have a place belong to a volume; any other image stands for itself.
        unit = key_of(series if "ImagePositionPatient" in header else uid)
        asker = str(event.request.MoveOriginatorApplicationEntityTitle or "").strip()  # type: ignore[union-attr]
        try:
            if asker == self.settings.title:
                message = int(event.request.MoveOriginatorMessageID or 0)  # type: ignore[union-attr]
                return self._keep_prior(self.store.fetched(message) / key_of(series), uid, content)
            self._keep(unit, key_of(uid), content)
        except Exception as error:  # disk full, queue locked: the sender keeps the image
            log("instance refused: not stored", level=logging.ERROR, **failure(error))
            return NO_RESOURCES
        return SUCCESS

    def _keep_prior(self, asked: Path, uid: str, content: bytes) -> int:
        """A prior that a worker asks for by C-MOVE: it made the folder of the series for that."""
        if not asked.is_dir():
            log("instance refused: of no move under way", level=logging.WARNING)
            return NOT_AUTHORISED
        put(asked / f"{key_of(uid)}.dcm", content)
        return SUCCESS

    def _keep(self, unit: str, key: str, content: bytes) -> None:
        path = self.store.image(unit, key)
        if not path.is_file():
            put(path, content)
        if self.queue.accept(key, unit, self.settings.settle):
            log("instance accepted")
        else:
            log("instance known already")

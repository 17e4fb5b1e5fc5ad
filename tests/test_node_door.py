"""The door of the node: who may come in, what is taken, and what a user may not set."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra `node` is not installed")

from cli_cases import invoke, refused
from node_cases import free_port, send
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE
from pynetdicom.association import Association
from road_cases import planted, write_dicom

from medic_ad.errors import NodeError
from medic_ad.node.peers import peer_of
from medic_ad.node.queue import Queue, key_of
from medic_ad.node.receive import Receiver
from medic_ad.node.settings import NodeArguments
from medic_ad.node.store import Store


@contextmanager
def door(folder: Path, **options: object) -> Iterator[tuple[NodeArguments, Queue]]:
    """The listening side alone, in this process."""
    port = free_port()
    values = {"folder": folder, "results": "dicom://A@h:1", "port": port, **options}
    settings = NodeArguments(**values)  # type: ignore[arg-type]
    store = Store(folder)
    queue = Queue(folder / "node.db", "w")
    receiver = Receiver(settings, queue, store)
    receiver.start()
    try:
        yield settings, queue
    finally:
        receiver.close()
        receiver.abort()


@contextmanager
def calling(
    port: int,
    *syntaxes: str,
    kinds: Sequence[str] = (MRImageStorage,),
    tls: NodeArguments | None = None,
) -> Iterator[Association]:
    """An association with the door: each kind in each syntax is offered by itself."""
    entity = AE("SENDER")
    entity.acse_timeout = entity.connection_timeout = 10
    for kind, syntax in itertools.product(kinds, syntaxes or [ExplicitVRLittleEndian]):
        entity.add_requested_context(kind, syntax)
    link = entity.associate(
        "localhost" if tls else "127.0.0.1",
        port,
        ae_title="MEDIC_AD",
        tls_args=(tls.client_tls(), "localhost") if tls else None,
    )
    try:
        yield link
    finally:
        link.release()


def image(folder: Path) -> Path:
    return write_dicom(folder / "image.dcm", planted().current)


def test_an_address_that_is_not_on_the_list_is_refused(tmp_path: Path) -> None:
    with door(tmp_path / "a", addresses="10.0.0.0/8, ::1") as (settings, queue):
        assert send(settings.port, [image(tmp_path)]) == []
        assert queue.counts()["instances"] == 0
    with door(tmp_path / "b", addresses="127.0.0.1") as (settings, queue):
        assert send(settings.port, [image(tmp_path)]) == [0]
        assert queue.counts()["instances"] == 1


def test_results_are_not_taken_in(tmp_path: Path) -> None:
    """An archive that forwards everything must not make the node read its own results."""
    kinds = (MRImageStorage, SegmentationStorage)
    with door(tmp_path / "a") as (settings, _), calling(settings.port, kinds=kinds) as link:
        assert [context.abstract_syntax for context in link.accepted_contexts] == [MRImageStorage]


def test_a_prior_is_taken_only_for_a_move_under_way(tmp_path: Path) -> None:
    file = image(tmp_path)
    series = key_of(str(pydicom.dcmread(file).SeriesInstanceUID))
    with door(tmp_path / "a") as (settings, queue), calling(settings.port) as link:
        fetched = Store(settings.folder).fetched(5)

        def status(message: int) -> int:
            moved = link.send_c_store(file, originator_aet="MEDIC_AD", originator_id=message)
            return int(moved.Status)

        assert status(5) == 0x0124 and not fetched.exists()
        (fetched / "another series").mkdir(parents=True)
        assert status(5) == 0x0124
        (fetched / series).mkdir()
        assert status(6) == 0x0124
        assert status(5) == 0 and len(list((fetched / series).glob("*.dcm"))) == 1
        assert queue.counts()["instances"] == 0


def test_a_deflated_image_is_not_taken(tmp_path: Path) -> None:
    """A few bytes of it can be gigabytes; every sender of one must offer another syntax too."""
    offered = (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian)
    with door(tmp_path / "a") as (settings, _), calling(settings.port, *offered) as link:
        accepted = [context.transfer_syntax for context in link.accepted_contexts]
    assert accepted == [[ImplicitVRLittleEndian]]


def test_an_image_that_says_no_series_is_answered_with_a_failure(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(image(tmp_path))
    del dataset.SeriesInstanceUID
    with door(tmp_path / "a") as (settings, queue), calling(settings.port) as link:
        assert link.send_c_store(dataset).Status == 0xC000
        assert queue.counts()["instances"] == 0
    assert not list((tmp_path / "a" / "incoming").iterdir())


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed (Debian package openssl)"
)


def certificates(folder: Path, *names: str) -> dict[str, dict[str, Path]]:
    """Self-signed ones for localhost, as options of a node."""
    made = {}
    for name in names:
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                 "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key),
                 "-addext", "subjectAltName=DNS:localhost", "-out", str(certificate)]  # fmt: skip
        subprocess.run(words, check=True, capture_output=True)
        made[name] = {"certificate": certificate, "private_key": key}
    return made


@needs_openssl
def test_a_caller_who_says_nothing_keeps_no_other_out(tmp_path: Path) -> None:
    [own] = certificates(tmp_path, "node").values()
    with ExitStack() as stack:
        settings, queue = stack.enter_context(door(tmp_path / "a", **own))
        for said in (b"", b"", b"\x16\x03\x01\x02"):  # nothing, nothing, a part of a handshake
            silent = socket.create_connection(("127.0.0.1", settings.port))
            stack.callback(silent.close)
            silent.sendall(said)
        client = NodeArguments(
            folder=tmp_path, results="dicoms://A@h:1", authorities=own["certificate"]
        )
        with calling(settings.port, tls=client) as link:
            assert link.is_established and link.send_c_store(image(tmp_path)).Status == 0
        assert queue.counts()["instances"] == 1


@needs_openssl
def test_tls_lets_in_who_has_a_certificate_of_the_authority(tmp_path: Path) -> None:
    names = certificates(tmp_path, "node", "stranger")
    options = {**names["node"], "authorities": tmp_path / "node.pem"}
    with door(tmp_path / "a", **options) as (settings, queue):
        assert send(settings.port, [image(tmp_path)]) == []  # no TLS at all
        for name, let_in in (("node", True), ("stranger", False)):
            client = NodeArguments(
                folder=tmp_path,
                results="dicoms://A@h:1",
                authorities=tmp_path / "node.pem",
                certificate=names[name]["certificate"],
                private_key=names[name]["private_key"],
            )
            with calling(settings.port, tls=client) as link:
                assert link.is_established == let_in
                if let_in:
                    assert link.send_c_store(image(tmp_path)).Status == 0
        assert queue.counts()["instances"] == 1
        assert settings.client_tls().verify_mode == ssl.CERT_REQUIRED


REFUSED: dict[str, dict[str, object]] = {
    "that limit them": {"host": "0.0.0.0"},
    "that limit": {"host": "10.1.2.3", "callers": "A", "addresses": "0.0.0.0/0"},
    "at least 1 for --workers": {"workers": 0},
    "up to 65535 for --port": {"port": 70000},
    "up to 65535 for --http-port": {"http_port": -1},
    "AE titles of 1 to 16": {"callers": "A,THIS_TITLE_IS_TOO_LONG"},
    "addresses such as": {"addresses": "everyone"},
    "--certificate and --private-key together": {"certificate": Path("x")},
}


@pytest.mark.parametrize("words", REFUSED)
def test_settings_that_cannot_be_meant_are_refused(words: str) -> None:
    with pytest.raises(NodeError, match="expected .+ came .+; ") as caught:
        NodeArguments(folder=Path("x"), results="dicom://A@h:1", **REFUSED[words])  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize("address", ["", "ORTHANC", "dicom://host:1", "ftp://a@b:1", "dicom://A@b"])
def test_a_peer_without_a_full_address_is_refused(address: str) -> None:
    with pytest.raises(NodeError, match="expected dicom://TITLE@HOST:PORT"):
        peer_of(address, NodeArguments(folder=Path("x"), results="dicom://A@h:1"))


def test_the_command_line_refuses_in_one_sentence_before_anything_listens(tmp_path: Path) -> None:
    words = ("node", "--folder", tmp_path / "data")
    refused(invoke(*words), "expected the option --results")
    refused(invoke(*words, "--results", "ORTHANC"), "expected dicom://TITLE@HOST:PORT", "'ORTHANC'")
    refused(invoke(*words, "--results", "dicom://A@h:1", "--model", "nanoo"), "did you mean nano?")
    refused(
        invoke(*words, "--results", "dicom://A@h:1", "--host", "0.0.0.0"), "--callers", "0.0.0.0"
    )
    file = tmp_path / "node.yaml"
    file.write_text("results: dicom://A@h:1\ncaller: A\n")
    refused(invoke(*words, "--config", file), "unknown key 'caller'; did you mean callers?")
    assert not (tmp_path / "data").exists()

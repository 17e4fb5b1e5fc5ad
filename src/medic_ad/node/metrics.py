"""Node: /health and /metrics over HTTP; figures are read from the queue when they are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from medic_ad.errors import NodeError
from medic_ad.node.queue import STATES, Queue

Health = Callable[[], dict[str, Any]]


class _FromQueue(Collector):
    """Figures of the queue, which survive a restart, and of the processes, which do not."""

    def __init__(self, queue: Queue, health: Health) -> None:
        self.queue, self.health = queue, health

    def collect(self) -> Iterator[Metric]:
        counts, health = self.queue.counts(), self.health()
        jobs = GaugeMetricFamily("medic_ad_jobs", "Jobs by state", labels=["state"])
        for state in STATES:
            jobs.add_metric([state], counts[state])
        yield jobs
        for name, text, value in (
            ("instances", "Images accepted", counts["instances"]),
            ("results", "Results sent", counts["sent"]),
            ("worker_restarts", "Workers that ended and were started again", health["restarts"]),
        ):
            yield CounterMetricFamily(f"medic_ad_{name}", text, value=value)
        for name, text, value in (
            ("workers", "Workers alive", health["workers"]),
            ("associations", "Associations open", health["associations"]),
            ("overdue_seconds", "Wait of the oldest job that is due", counts["overdue_seconds"]),
        ):
            yield GaugeMetricFamily(f"medic_ad_{name}", text, value=value)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the log is the node's."""


def serve_metrics(host: str, port: int, queue: Queue, health: Health) -> WSGIServer:
    """Answer in a thread of this process.

    Raises:
        NodeError: the address cannot be listened on.
    """
    registry = CollectorRegistry()
    registry.register(_FromQueue(queue, health))

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        status, kind, body = "404 Not Found", "text/plain", b"/health and /metrics are here\n"
        if environ["PATH_INFO"] == "/metrics":
            status, kind, body = "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
        elif environ["PATH_INFO"] == "/health":
            state = health()
            status = "200 OK" if state["ok"] else "503 Service Unavailable"
            kind, body = "application/json", (json.dumps(state) + "\n").encode()
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    try:
        server = make_server(host, port, answer, _Server, _Silent)
    except OSError as error:
        raise NodeError(
            f"expected an address to listen on, came {host}:{port} ({error.strerror}); give "
            "another --http-host or --http-port."
        ) from error
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server

"""A proxy in front of the rehearsal's AWS endpoint that records calls and injects faults into them.

Serves both the report of a rehearsal (the calls that a command makes) and the fault injection of tests.
Listens on loopback and forwards to loopback.
"""

import http.client
import json
import os
import re
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from builder.errors import FactoryError
from builder.rehearsal.addresses import require_loopback
from builder.rehearsal.calls import Call, Disturbance, error_body, read_call
from builder.rehearsal.gate import CONTROL, Gate, Refused, Request, refusal_body

_FORWARD_TIMEOUT_S = 900.0
_ERROR = re.compile(rb"<Code>([\w.]+)</Code>|\"__type\":\s*\"(?:[\w.]+#)?(\w+)\"")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
# Handler of a control request to the proxy itself: gets the query and the JSON body.
Control = Callable[[Mapping[str, str], Any], object]


class _Lost(Exception):
    """Raised to close a connection without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def _serve(self) -> None:
        request = Request.of(self.command, self.path, dict(self.headers.items()))
        try:
            body = self.server.proxy.gate.check(request, lambda: self.rfile.read(request.body_size))
            if self.path.startswith(CONTROL):
                self._control(body)
            else:
                status, headers, answer = self.server.proxy.answer(
                    self.command, self.path, dict(self.headers.items()), body
                )
                self._answer(status, headers, answer)
        except Refused as refused:
            self.close_connection = True  # the body may be unread
            content_type, answer = refusal_body(refused)
            self._answer(refused.status, {"Content-Type": content_type, "Connection": "close"}, answer)
        except (_Lost, OSError):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 (the base class looks for these)

    def _control(self, body: bytes) -> None:
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        try:
            act = self.server.proxy.controls[f"{self.command} {url.path.removeprefix(CONTROL)}"]
            status, found = 200, act(query, json.loads(body or b"null"))
        except (KeyError, TypeError, ValueError) as error:
            status, found = 400, {"error": repr(error)}
        except FactoryError as error:
            status, found = 400, {"error": error.message, "hint": error.hint}
        self._answer(status, {"Content-Type": "application/json"}, json.dumps(found).encode())

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Log nothing; the proxy records the calls."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    proxy: "Proxy"

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer.server_bind would look up the host's name
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class Proxy:
    """The proxy, which serves while its context is entered; `calls` are the finished calls in order."""

    def __init__(
        self,
        upstream: str,
        *,
        gate: Gate,
        journal: Path | None = None,
        authorize: Callable[[Call], tuple[str, str] | None] = lambda _: None,
    ) -> None:
        self.gate = gate
        self._authorize = authorize  # returns code and message of a refusal
        self._upstream = urlsplit(require_loopback(upstream)).netloc
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.calls: list[Call] = []
        self.controls: dict[str, Control] = {
            "GET calls": lambda query, _: [
                call.as_table() for call in list(self.calls) if call.number > int(query.get("after", "0"))
            ],
            "PUT disturbances": lambda _, tables: self.disturb(*map(Disturbance.from_table, tables)),
            "DELETE disturbances": lambda _, __: self.clear_disturbances(),
        }
        self._journal = journal
        self._disturbances: list[tuple[Disturbance, list[int]]] = []  # with the numbers of matching calls
        self._count = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def disturb(self, *disturbances: Disturbance) -> None:
        with self._lock:
            self._disturbances += [(disturbance, []) for disturbance in disturbances]

    def clear_disturbances(self) -> None:
        with self._lock:
            self._disturbances.clear()

    @property
    def busy(self) -> bool:
        """True if a call has not been answered yet."""
        with self._lock:
            return len(self.calls) < self._count

    @property
    def mutating(self) -> list[tuple[str, str, str]]:
        """The (service, action, region) of all calls that are not read-only, even if they failed."""
        return [(call.service, call.action, call.region) for call in list(self.calls) if call.mutating]

    def answer(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        with self._lock:
            self._count += 1
            call = read_call(self._count, method, path, headers, body)
            call = replace(call, started_s=time.time())
            disturbance = self._disturbance_of(call)
        began, done = time.monotonic(), ""
        status, answer = 0, b""
        fields: Mapping[str, str]
        try:
            if refused := self._authorize(call):
                content_type, answer = error_body(call, *refused)
                status, fields = 403, {"Content-Type": content_type}
            elif disturbance is None:
                status, fields, answer = self._forward(method, path, headers, body)
            else:
                done = "disturbed"
                status, fields, answer = self._forward_disturbed(
                    call, disturbance, method, path, headers, body
                )
            return status, fields, answer
        except _Lost:
            done = "dropped"
            raise
        finally:
            found = _ERROR.search(answer) if status >= 400 else None
            error = next(filter(None, found.groups()), b"").decode() if found else ""
            seconds = time.monotonic() - began
            self._write(replace(call, status=status, error=error, seconds=seconds, disturbed=done))

    def _disturbance_of(self, call: Call) -> Disturbance | None:
        hit = None
        for disturbance, matched in self._disturbances:
            if disturbance.matches(call):
                matched.append(call.number)
                index = len(matched) - disturbance.first
                if index >= 0 and (not disturbance.count or index < disturbance.count):
                    hit = hit or disturbance
        return hit

    def _forward_disturbed(
        self,
        call: Call,
        disturbance: Disturbance,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
    ) -> tuple[int, Mapping[str, str], bytes]:
        if disturbance.delay_s:
            self._stopping.wait(disturbance.delay_s)
        if disturbance.kill == "before":
            _kill(disturbance, call)
        if disturbance.drop == "before":
            raise _Lost
        if disturbance.code or disturbance.status:
            content_type, answer = error_body(call, disturbance.code or "InternalError", disturbance.message)
            return disturbance.status or 400, {"Content-Type": content_type}, answer
        status, fields, answer = self._forward(method, path, headers, body)
        if disturbance.kill == "after":
            _kill(disturbance, call)
        if disturbance.drop == "after":
            raise _Lost
        if disturbance.replace:
            pattern, text = disturbance.replace
            answer = re.sub(pattern, text, answer.decode()).encode()
        return status, fields, answer

    def _forward(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=_FORWARD_TIMEOUT_S)
        try:
            kept = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(method, path, body=body, headers=kept)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        except http.client.HTTPException as error:
            raise _Lost from error
        finally:
            connection.close()

    def _write(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
            if self._journal:
                with self._journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(call.as_table()) + "\n")


def _kill(disturbance: Disturbance, call: Call) -> None:
    if disturbance.callback:
        disturbance.callback(call)
    else:
        with suppress(ProcessLookupError):
            os.kill(disturbance.pid, signal.Signals[disturbance.signal])

"""WSGI middleware that passes on only the requests that a rehearsal's `Gate` allows."""

import io
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from builder.rehearsal.gate import Gate, Refused, Request, refusal_body

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


def guarded(app: App, gate: Gate) -> App:
    """Return an application that answers only the requests which the gate allows."""

    def answer(environ: Environ, start: StartResponse) -> Iterable[bytes]:
        request = _request(environ)
        try:
            body = gate.check(request, lambda: environ["wsgi.input"].read(request.body_size))
        except Refused as refused:
            content_type, text = refusal_body(refused)
            headers = [("Content-Type", content_type), ("Content-Length", str(len(text)))]
            start(f"{refused.status} {HTTPStatus(refused.status).phrase}", headers)
            return [text]
        return app({**environ, "wsgi.input": io.BytesIO(body)}, start)

    return answer


def _request(environ: Environ) -> Request:
    headers = {
        name.removeprefix("HTTP_").replace("_", "-"): str(value)
        for name, value in environ.items()
        if name.startswith("HTTP_") or name in ("CONTENT_TYPE", "CONTENT_LENGTH")
    }
    return Request.of(environ["REQUEST_METHOD"], environ["REQUEST_URI"], headers)

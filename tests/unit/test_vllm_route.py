"""The router of vllm-nixl with two servers on loopback: forwarded requests, and responses to clients."""

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "containers" / "vllm-nixl" / "src"
PATH = "/v1/completions"


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"vllm-{name}", SOURCE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Part(BaseHTTPRequestHandler):
    """Request handler of a fake vLLM server: records requests and returns the configured response."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((json.loads(body), self.headers["X-Request-Id"]))  # type: ignore[attr-defined]
        code, answer = self.server.answer  # type: ignore[attr-defined]
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def part(code: int, answer: object) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Part)
    server.requests, server.answer = [], (code, answer)  # type: ignore[attr-defined]
    return server


@pytest.fixture
def servers() -> Iterator[tuple[Any, Any, str]]:
    place = {"kv_transfer_params": {"remote_engine_id": "e", "remote_block_ids": [1]}}
    with ExitStack() as stack:
        prefill, decode = part(200, place), part(200, {"choices": [{"text": "an answer"}]})
        urls = [stack.enter_context(serving(server)) for server in (prefill, decode)]
        router = program("route").Router(("127.0.0.1", 0), urls[:1], urls[1:])
        yield prefill, decode, stack.enter_context(serving(router))


def ask(url: str, body: bytes, path: str = PATH) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url + path, body), timeout=30) as answer:
        return json.loads(answer.read())


def test_prefill_server_fills_the_kv_cache_and_decode_server_reads_it(servers: tuple[Any, Any, str]) -> None:
    prefill, decode, url = servers
    request = {"model": "m", "prompt": "EFA is", "max_tokens": 20, "stream": False}
    assert ask(url, json.dumps(request).encode()) == {"choices": [{"text": "an answer"}]}
    (filled, name), (read, same) = prefill.requests[0], decode.requests[0]
    assert (filled["max_tokens"], filled["kv_transfer_params"]["do_remote_decode"]) == (1, True)
    assert read == {**request, "kv_transfer_params": {"remote_engine_id": "e", "remote_block_ids": [1]}}
    assert name == same


@pytest.mark.parametrize(
    ("body", "path", "code"), [(b"{", PATH, 400), (b"{}", "/v1/nothing", 404)], ids=["no JSON", "no path"]
)
def test_wrong_request_reaches_no_server(
    servers: tuple[Any, Any, str], body: bytes, path: str, code: int
) -> None:
    prefill, _, url = servers
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, body, path)
    assert caught.value.code == code
    assert prefill.requests == []


def test_error_of_a_server_is_passed_on(servers: tuple[Any, Any, str]) -> None:
    prefill, decode, url = servers
    prefill.answer = (422, {"error": "too long"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, b"{}")
    assert (caught.value.code, json.loads(caught.value.read())) == (422, {"error": "too long"})
    assert decode.requests == []


def test_router_answers_502_if_a_server_does_not_answer() -> None:
    router = program("route").Router(("127.0.0.1", 0), ["http://127.0.0.1:9"], ["http://127.0.0.1:9"])
    with serving(router) as url, pytest.raises(urllib.error.HTTPError) as caught:
        ask(url, b"{}")
    assert caught.value.code == 502


def test_prefill_and_decode_servers_differ_in_their_kv_role() -> None:
    serve = program("serve")
    options, more = serve.parse(["--model", "m", "--role", "prefill", "--tensor-parallel-size", "8"])
    words = serve.command(options, more)
    assert words[1:5] == ["serve", "m", "--port", "8000"]
    assert words[-2:] == ["--tensor-parallel-size", "8"]
    transfer = json.loads(words[words.index("--kv-transfer-config") + 1])
    assert transfer["kv_role"] == "kv_producer"
    assert transfer["kv_connector_extra_config"] == {"backends": ["LIBFABRIC"]}

"""Random server responses and random program output end in a message, never in a traceback or a hang.

The environment variable FUZZ_EXAMPLES, which `make fuzz` sets, is the number of examples of each test.
"""

import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from builder.adapters.ami.packer_log import PackerLog
from builder.adapters.ansible.playbook import Listener
from builder.adapters.engine.client import Engine
from builder.adapters.host import http
from builder.adapters.host.network import DIRECT
from builder.adapters.registry.api import Credentials
from builder.adapters.registry.blobs import sha256
from builder.adapters.registry.client import Blob, Registry
from builder.adapters.registry.publisher import RegistryCache
from builder.adapters.upstream.fetch import Fetcher
from builder.adapters.upstream.manifests import pick_image, require_image
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.suites import release_date
from builder.errors import FactoryError
from builder.events import Stream
from tests.support.stub_server import Pauses

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
TLS = cache(http._tls)  # reading the certificates of the system for each example would take longest
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a failing example is small, so it is not shrunk
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=PHASES,
)
CODES = {3, 4, 6, 7}
CONTENT = b'{"config": {"digest": "sha256:0"}}'
DIGEST = sha256(CONTENT)


class RawServer(socketserver.ThreadingTCPServer):
    """Server that sends the bytes `answers[n]` for request n, unchanged, and closes the connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[bytes] = []
        self.count = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: RawServer

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        answers = self.server.answers
        answer = answers[self.server.count % len(answers)]
        self.server.count += 1
        self.wfile.write(answer.replace(b"HOST", self.server.host.encode()))


@pytest.fixture(scope="module")
def server() -> Iterator[RawServer]:
    with RawServer() as started:
        thread = threading.Thread(target=started.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def mostly(*usual: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(usual), json_values)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from([DIGEST, "sha256:", "../..", "linux", "amd64"]),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "errors": mostly([{"code": "NAME_UNKNOWN", "message": "x"}], [{}], [[]]),
        "token": mostly("abc", ""),
        "access_token": mostly("abc"),
        "tags": mostly(["1", "2"], [], None),
        "config": mostly({"digest": DIGEST}, {"digest": 1}, {}),
        "layers": mostly([]),
        "manifests": mostly(
            [{"digest": DIGEST, "platform": {"os": "linux", "architecture": "amd64"}}],
            [{"platform": {"os": "linux", "architecture": "amd64"}}],
            [{"platform": None}],
            [1],
        ),
        "architecture": mostly("amd64", "arm64"),
        "created": mostly("2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"),
    },
)
bodies = st.one_of(
    documents.map(lambda value: json.dumps(value).encode()),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
    st.just(CONTENT),
    st.sampled_from([b"", b"[" * 100_000, b'{"errors":' * 50_000, b"\xff\xfe", b"Date: x\n", b"1e999"]),
)
header_values = {
    "WWW-Authenticate": st.sampled_from(
        [
            'Bearer realm="http://HOST/token",service="s",scope="repository:app:pull"',
            'Bearer realm="http://[", service',
            'Bearer realm="https://[::1]:x/"',
            "Bearer",
            "Basic realm=x",
            'Bearer realm="http://HOST/token?x"',
            'Negotiate, Bearer realm=""',
            "\x01",
        ]
    ),
    "Location": st.one_of(
        st.sampled_from(
            [
                "/v2/app/blobs/uploads/1",
                "http://HOST/x",
                "http://[",
                "//",
                "http://a:b",
                "?",
                "\x7f",
                "ftp://x",
            ]
        ),
        st.text(alphabet=st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20),
    ),
    "Link": st.sampled_from(
        ['</v2/app/tags/list?n=1>; rel="next"', "<http://[>; rel=next", "<>;rel=next", "<x"]
    ),
    "Docker-Content-Digest": st.sampled_from([DIGEST, "sha256:x", "", "é"]),
    "Content-Type": st.sampled_from(["application/json", "", "\xff"]),
    "Content-Length": st.sampled_from(["0", "-1", "x", "3, 4", "99999999999999999999", "1 2", ""]),
    "Transfer-Encoding": st.sampled_from(["chunked", "gzip", "identity, chunked"]),
    "Content-Encoding": st.sampled_from(["gzip", "zstd", "x"]),
    "Retry-After": st.sampled_from(["0", "-1", "9" * 30, "Wed, 21 Oct 2015 07:28:00 GMT"]),
    "Connection": st.sampled_from(["close", "keep-alive", "upgrade"]),
}
headers = st.fixed_dictionaries({}, optional=header_values)
statuses = st.sampled_from(
    [
        200,
        200,
        200,
        201,
        202,
        204,
        206,
        301,
        302,
        304,
        307,
        400,
        401,
        401,
        403,
        404,
        404,
        405,
        409,
        429,
        500,
        503,
    ]
)


def _response(status: int, fields: dict[str, str], body: bytes, *, has_length: bool) -> bytes:
    if has_length:
        fields = {"Content-Length": str(len(body)), **fields}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1", errors="replace") + body


responses = st.builds(_response, statuses, headers, bodies, has_length=st.booleans())
raw = st.one_of(
    responses,
    responses,
    responses,
    st.binary(max_size=80),
    st.sampled_from(
        [
            b"",
            b"HTTP/1.1 200",
            b"HTTP/9.9 999 \r\n\r\n",
            b"HTTP/1.1 -1 X\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
            b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 500 + b"\r\n",
            b"HTTP/1.1 200 X\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            b"HTTP/1.1 200 X\r\n A: b\r\n:\r\n\r\n",
        ]
    ),
)

Ask = Callable[[str, Pauses], object]


def _registry(ask: Callable[[Registry], object]) -> Ask:
    def run(host: str, pauses: Pauses) -> object:
        login = Credentials(username="me", password="secret")
        with Registry(host, network=DIRECT, credentials=login, cancelled=pauses) as registry:
            return ask(registry)

    return run


def _cache(host: str, pauses: Pauses) -> object:
    cache = RegistryCache(
        engine=Engine(), repository=f"{host}/app", blobs=Path("/"), network=DIRECT, cancelled=pauses
    )
    return cache.has("0123")


ASKED: dict[str, Ask] = {
    "ping": _registry(Registry.ping),
    "has_blob": _registry(lambda registry: registry.has_blob("app", DIGEST)),
    "find_manifest": _registry(lambda registry: registry.find_manifest("app", "1")),
    "get_manifest": _registry(lambda registry: registry.get_manifest("app", DIGEST)),
    "get_blob": _registry(lambda registry: registry.get_blob("app", DIGEST)),
    "tags": _registry(lambda registry: registry.tags("app")),
    "push_blob": _registry(lambda registry: registry.push_blob("app", Blob.of(CONTENT), mount_from=("b",))),
    "put_manifest": _registry(lambda registry: registry.put_manifest("app", "1", CONTENT)),
    "pick_image": lambda host, pauses: pick_image(
        f"{host}/app:1", arch="x86_64", mirror=Mirror(), cancelled=pauses
    ),
    "require_image": lambda host, pauses: require_image(
        f"{host}/app:1", digest=DIGEST, mirror=Mirror(), cancelled=pauses
    ),
    "cache": _cache,
    "read": lambda host, pauses: Fetcher(Mirror(), cancelled=pauses).read(f"http://{host}/x", limit=100),
    "measure": lambda host, pauses: Fetcher(Mirror(), cancelled=pauses).measure(f"http://{host}/x"),
}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(http, "_tls", TLS)


@pytest.mark.parametrize("name", ASKED)
@given(answers=st.lists(raw, min_size=1, max_size=5))
@fuzzed
def test_random_http_responses_end_in_a_result_or_a_message(
    server: RawServer, name: str, answers: list[bytes]
) -> None:
    server.answers, server.count = answers, 0
    found: FactoryError | None = None
    try:
        ASKED[name](server.host, Pauses())
    except FactoryError as error:
        found = error
    assert found is None or found.exit_code in CODES
    assert found is None or len(found.message) < 2000


events = st.fixed_dictionaries(
    {"event": mostly("task", "failed", "result")},
    optional=dict.fromkeys(
        ("role", "task", "message", "details", "url", "expected", "actual", "seconds", "changed"), json_values
    ),
)
texts = st.one_of(
    events.map(json.dumps),
    json_values.map(json.dumps),
    st.text(max_size=100),
    st.sampled_from(
        ["[" * 100_000, '{"event":' * 50_000, "9" * 5000, '{"event": "result", "seconds": 1e999}']
    ),
)


@given(lines=st.lists(texts, max_size=6))
@fuzzed
def test_random_output_lines_of_a_play_are_events_or_text(lines: list[str]) -> None:
    listener = Listener(Stream(), "hello/base")
    for line in lines:
        listener.line(line)
    assert all(isinstance(text, str) for text in listener.tail)


packer_lines = st.one_of(
    texts,
    st.builds(
        "{},{},{},{}".format,
        st.integers(),
        st.text(max_size=5),
        st.sampled_from(["ui", "error", "artifact", "ui,say", "ui,error"]),
        texts,
    ),
)


@given(lines=st.lists(packer_lines, max_size=6))
@fuzzed
def test_random_output_lines_of_packer_become_events(lines: list[str]) -> None:
    log = PackerLog()
    for line in lines:
        assert list(log.read(line)) is not None
    assert len(log.tail) <= 40


@given(
    text=st.one_of(
        st.text(max_size=40), st.sampled_from(["Mon, 1 Jan 0001 00:00:00 +2359", "31 Dec 9999 -1"])
    )
)
@fuzzed
def test_random_dates_of_package_lists_are_parsed_or_empty(text: str) -> None:
    assert isinstance(release_date(text), str)

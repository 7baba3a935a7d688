"""Local HTTP server that imitates the vendors: a folder for each host, filled by the stand-ins.

Packages and repositories are signed with a generated key. `mirrors` redirects the downloads of a build to the
server.
"""

import io
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.standins import repositories

SIGNER = "Stand-in Vendor <packages@vendor.invalid>"
# Fixed timestamp, so that files and their checksums are the same in every session.
EPOCH = 1_700_000_000

# Content of a file. It is executable if it starts with #! or is given as ("text", 0o755).
Content = str | bytes | tuple[str | bytes, int]


def mode_and_bytes(content: Content) -> tuple[int, bytes]:
    text, mode = content if isinstance(content, tuple) else (content, None)
    data = text.encode() if isinstance(text, str) else text
    return mode or (0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644), data


@dataclass(kw_only=True)
class Site:
    """Server of all vendors' URLs; `pins` are the versions of the stand-ins."""

    folder: Path
    pins: Mapping[str, str]
    port: int = 0
    # Maps a path (/host/...) to an HTTP status and the number of responses with that status.
    faults: dict[str, tuple[int, int]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    # Requirement lines and URLs of the Python indexes that stand-ins have added.
    requirements: list[str] = field(default_factory=list)
    indexes: list[str] = field(default_factory=list)
    # Files of the base image; a Path as content is the target of a link.
    base: dict[str, Content | Path] = field(default_factory=dict)

    @property
    def mirrors(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.port}/"
        return {"https://": url, "http://": url}

    def pin(self, name: str) -> str:
        return self.pins[name]

    def url_file(self, url: str) -> Path:
        """Return the path of the file that is served for a URL; create its parent folders."""
        path = self.folder / url.partition("://")[2].rstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, url: str, content: Content) -> Path:
        path = self.url_file(url)
        path.write_bytes(mode_and_bytes(content)[1])
        return path

    @cached_property
    def keyring(self) -> Path:
        """Return the GNUPGHOME with the signing key; create it on first use."""
        # gpg-agent's socket path is limited to 108 characters, so the folder must have a short path.
        home = Path(self.folder.parent, "gnupg")
        home.mkdir(mode=0o700, exist_ok=True)
        if not any(home.iterdir()):
            self.gpg(
                "--quick-generate-key", "--passphrase", "", SIGNER, "rsa2048", "sign", "never", home=home
            )
        return home

    def gpg(self, *words: str, home: Path | None = None) -> bytes:
        command = ["gpg", "--homedir", str(home or self.keyring), "--batch", "--yes", "--quiet", *words]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def key(self, url: str, *, armored: bool = True) -> Path:
        """Serve the public signing key at a URL."""
        return self.write(url, self.gpg("--export", *(["--armor"] if armored else []), SIGNER))

    def sign(self, path: Path, *, armored: bool = False, suffix: str = "") -> Path:
        """Write a detached signature next to a file (.sig, or .asc if armored); return its path."""
        signature = path.with_name(path.name + (suffix or (".asc" if armored else ".sig")))
        armor = ["--armor"] if armored else []
        self.gpg("--output", str(signature), *armor, "--detach-sign", str(path))
        return signature

    def tar(self, url: str, files: Mapping[str, Content], *, links: Mapping[str, str] | None = None) -> Path:
        """Serve a tar archive, with compression chosen by its suffix."""
        path = self.url_file(url)
        compression = {"gz": "gz", "tgz": "gz", "xz": "xz", "bz2": "bz2"}.get(
            path.name.rpartition(".")[2], ""
        )
        with tarfile.open(path, f"w:{compression}") as archive:
            for name, content in sorted(files.items()):
                mode, data = mode_and_bytes(content)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(data), mode, EPOCH
                archive.addfile(entry, io.BytesIO(data))
            for name, target in sorted((links or {}).items()):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, target, EPOCH
                archive.addfile(entry)
        return path

    def zip(self, url: str, files: Mapping[str, Content]) -> Path:
        path = self.url_file(url)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(files.items()):
                mode, data = mode_and_bytes(content)
                entry = zipfile.ZipInfo(name, (2023, 11, 14, 0, 0, 0))
                entry.external_attr = (0o100000 | mode) << 16
                archive.writestr(entry, data)
        return path

    def git(self, url: str, ref: str, files: Mapping[str, Content]) -> str:
        """Serve a git repository with the files in a tagged commit; return the commit."""
        bare = self.url_file(url)
        if not bare.exists():
            self._git("init", "--quiet", "--bare", str(bare), cwd=self.folder)
            self._git("config", "uploadpack.allowAnySHA1InWant", "true", cwd=bare)
        work = bare.with_name(f".{bare.name}.work")
        repositories.lay_out(work, {name: mode_and_bytes(content) for name, content in files.items()})
        self._git("init", "--quiet", "--initial-branch=main", cwd=work)
        self._git("add", "--all", "--force", cwd=work)
        self._git("commit", "--quiet", "--message", ref, cwd=work)
        self._git("tag", "--force", ref, cwd=work)
        self._git("push", "--quiet", "--force", str(bare), "HEAD:refs/heads/main", ref, cwd=work)
        commit = self._git("rev-parse", "HEAD", cwd=work)
        shutil.rmtree(work)
        return commit

    def _git(self, *words: str, cwd: Path) -> str:
        identity = {
            f"GIT_{role}_{part}": value
            for role in ("AUTHOR", "COMMITTER")
            for part, value in _IDENTITY.items()
        }
        settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
        done = subprocess.run(
            ["git", *words], cwd=cwd, env=identity | settings, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def deb(
        self,
        name: str,
        version: str,
        files: Mapping[str, Content],
        *,
        depends: Sequence[str] = (),
        scripts: Mapping[str, str] | None = None,
        arch: str = "",
        links: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Path:
        """Build a Debian package; `scripts` are maintainer scripts by name, `files` have absolute paths."""
        control = {"Depends": ", ".join(depends)} if depends else {}
        return repositories.make_deb(
            self.folder.parent / "packages",
            name=name,
            version=version,
            arch=arch,
            files={path: mode_and_bytes(content) for path, content in files.items()},
            links=links or {},
            scripts=scripts or {},
            fields=control | dict(fields or {}),
        )

    def rpm(
        self,
        name: str,
        version: str,
        files: Mapping[str, Content],
        *,
        depends: Sequence[str] = (),
        scripts: Mapping[str, str] | None = None,
        arch: str = "x86_64",
        links: Mapping[str, str] | None = None,
        provides: Sequence[str] = (),
    ) -> Path:
        """Build a signed RPM package; `version` is version-release, `scripts` are scriptlets by name."""
        package = repositories.make_rpm(
            self.folder.parent / "packages",
            name=name,
            version=version,
            arch=arch,
            files={path: mode_and_bytes(content) for path, content in files.items()},
            links=links or {},
            scripts=scripts or {},
            requires=depends,
            provides=provides,
        )
        repositories.sign_rpm(package, home=self.keyring, signer=SIGNER)
        return package

    def apt_repository(
        self,
        url: str,
        debs: Sequence[Path],
        key: str = "",
        *,
        suite: str = "./",
        components: Sequence[str] = (),
    ) -> None:
        """Serve a signed apt repository, and its key if `key` is a URL."""
        self.url_file(f"{url.rstrip('/')}/x")
        repositories.write_apt(
            self.url_file(url), debs, suite=suite, components=components, sign=self._sign_release
        )
        if key:
            self.key(key)

    def rpm_repository(self, url: str, rpms: Sequence[Path], key: str = "") -> None:
        """Serve a yum repository of signed packages, and its key if `key` is a URL."""
        folder = self.url_file(f"{url.rstrip('/')}/x").parent
        repositories.write_yum(folder, rpms)
        self.sign(folder / "repodata/repomd.xml", armored=True)
        if key:
            self.key(key)

    def wheel(
        self, name: str, version: str, files: Mapping[str, Content], *, tag: str = "py3-none-any"
    ) -> Path:
        return repositories.make_wheel(
            self.folder.parent / "packages",
            name=name,
            version=version,
            tag=tag,
            files={path: mode_and_bytes(content) for path, content in files.items()},
        )

    def python_index(self, url: str, wheels: Sequence[Path]) -> None:
        """Serve a simple index of wheels and add them to the requirements that the stack locks."""
        repositories.write_index(self.url_file(f"{url.rstrip('/')}/x").parent, wheels)
        self.requirements += [repositories.requirement_of(wheel) for wheel in wheels]
        self.indexes.append(self.mirrors["https://"] + url.partition("://")[2])

    def _sign_release(self, release: Path) -> None:
        self.gpg("--output", f"{release}.gpg", "--armor", "--detach-sign", str(release))
        self.gpg("--output", str(release.with_name("InRelease")), "--clear-sign", str(release))


_IDENTITY = {"NAME": "Stand-in", "EMAIL": "packages@vendor.invalid", "DATE": f"{EPOCH} +0000"}


class Handler(SimpleHTTPRequestHandler):
    """Request handler that serves the files of a site, and git repositories through git http-backend."""

    def __init__(self, *args: object, site: Site) -> None:
        self._site = site
        super().__init__(*args, directory=str(site.folder))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self._fails():
            return
        if ".git/" in self.path:
            serve_git(self, self._site.folder)
        else:
            # The query of a URL is part of the file name, except that of git's discovery request.
            self.path = self.path.removesuffix("?service=git-upload-pack").replace("?", "%3F")
            super().do_GET()

    def do_POST(self) -> None:
        if not self._fails():
            serve_git(self, self._site.folder)

    def _fails(self) -> bool:
        self._site.requests.append(self.path)
        status, times = self._site.faults.get(self.path, (0, 0))
        if times:
            self._site.faults[self.path] = (status, times - 1)
            self.send_error(status)
        return bool(times)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing; `Site.requests` records the requests."""


def serve_git(request: BaseHTTPRequestHandler, folder: Path) -> None:
    path, _, query = request.path.partition("?")
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": request.command,
    }
    body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
    done = subprocess.run(
        ["git", "http-backend"], input=body, env=environment, capture_output=True, check=False
    )
    head, _, answer = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    request.send_response(int(headers.pop("Status", "200").split()[0]))
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(answer)))
    request.end_headers()
    request.wfile.write(answer)


@contextmanager
def serve(folder: Path, pins: Mapping[str, str]) -> Iterator[Site]:
    """Serve an empty site on loopback until the block ends."""
    files = folder / "site"
    files.mkdir(parents=True)
    site = Site(folder=files, pins=pins)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=site))
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        if "keyring" in vars(site):
            subprocess.run(
                ["gpgconf", "--homedir", str(site.keyring), "--kill", "all"], check=False, capture_output=True
            )

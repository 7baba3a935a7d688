"""Facts about what a stand-in serves: packages, files, libraries, units and programs."""

import functools
import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.facts import Fact
from tests.standins.site import Content, Site, mode_and_bytes

# System libraries are not recorded: a stand-in is linked with others than the real library.
_SYSTEM = re.compile(r"(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|ld-linux.*)\.so\.\d+")
_NO_FACT = re.compile(r"#|\[\w+\]$|set -e$")
# Symbols that only stand-ins have or that the linker adds; they are not recorded as facts.
_MARKED = re.compile(r"standin|^_(init|fini)$")


@dataclass(kw_only=True)
class Records(Site):
    """Site that records what a stand-in serves; its packages and archives are empty files."""

    urls: list[str] = field(default_factory=list)
    # Facts about packages, and the contents of the files in the packages by path.
    facts: set[Fact] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    # Text of the files in source trees, by path without the first folder.
    sources: dict[str, str] = field(default_factory=dict)

    def url_file(self, url: str) -> Path:
        self.urls.append(url)
        return super().url_file(url)

    def key(self, url: str, *, armored: bool = True) -> Path:
        return self.write(url, "")

    def sign(self, path: Path, *, armored: bool = False, suffix: str = "") -> Path:
        path = Path(path)
        name = path.name + (suffix or (".asc" if armored else ".sig"))
        return self.write(f"https://{path.with_name(name).relative_to(self.folder)}", "")

    def tar(self, url: str, files: Mapping[str, Content], *, links: Mapping[str, str] | None = None) -> Path:
        self._add_sources({name.partition("/")[2]: content for name, content in files.items()})
        names = {name.partition("/")[0] for name in files}
        self.facts |= {Fact("folders", (url.rpartition("/")[2], name)) for name in names}
        return self.write(url, "")

    def zip(self, url: str, files: Mapping[str, Content]) -> Path:
        return self.tar(url, files)

    def git(self, url: str, ref: str, files: Mapping[str, Content]) -> str:
        self._add_sources(files)
        self.urls.append(f"{url} {ref}")
        return ""

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
        self._add("debs", name, files, depends=depends, scripts=scripts or {}, links=links or {})
        self.facts |= {Fact("fields", (name, key, value)) for key, value in (fields or {}).items()}
        return self._package(f"{name}_{version.rpartition(':')[2]}_{arch or 'amd64'}.deb")

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
        self._add("rpms", name, files, depends=depends, scripts=scripts or {}, links=links or {})
        return self._package(f"{name}-{version}.{arch}.rpm")

    def apt_repository(
        self,
        url: str,
        debs: Sequence[Path],
        key: str = "",
        *,
        suite: str = "./",
        components: Sequence[str] = (),
    ) -> None:
        self.urls += [url, *([key] if key else [])]

    def rpm_repository(self, url: str, rpms: Sequence[Path], key: str = "") -> None:
        self.urls += [url, *([key] if key else [])]

    def add_base(self, files: Mapping[str, Content | Path]) -> None:
        """Record the files of a base image; a path as content is the target of a link."""
        links = {path: str(target) for path, target in files.items() if isinstance(target, Path)}
        contents = {
            path: mode_and_bytes(content)[1]
            for path, content in files.items()
            if not isinstance(content, Path)
        }
        self.facts |= {Fact("links", link) for link in links.items()}
        self.facts |= {Fact("files", (path,)) for path in contents}
        self.contents |= contents

    def texts(self) -> Iterator[str]:
        """Yield the contents of all files in the packages except ELF binaries."""
        for data in self.contents.values():
            if not data.startswith(b"\x7fELF"):
                yield data.decode(errors="replace")

    def _add_sources(self, files: Mapping[str, Content]) -> None:
        self.sources |= {
            name: mode_and_bytes(content)[1].decode(errors="replace") for name, content in files.items()
        }

    def _add(
        self,
        kind: str,
        name: str,
        files: Mapping[str, Content],
        *,
        depends: Sequence[str],
        scripts: Mapping[str, str],
        links: Mapping[str, str],
    ) -> None:
        """Record only the first package of each name; further packages are other versions."""
        if any(fact.kind == kind and fact.words[0] == name for fact in self.facts):
            return
        self.facts |= {Fact(kind, (name, need)) for need in depends} or {Fact(kind, (name,))}
        self.facts |= {Fact("files", (path,)) for path in files}
        self.facts |= {Fact("links", (path, target)) for path, target in links.items()}
        self.facts |= {
            Fact("scripts", (f"{name} {script}", line))
            for script, text in scripts.items()
            for line in _lines(text)
        }
        self.contents |= {path: mode_and_bytes(content)[1] for path, content in files.items()}

    def _package(self, name: str) -> Path:
        path = self.folder.parent / "packages" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path


def records_of(component: str, pins: Mapping[str, str], folder: Path) -> Records:
    """Return the records of a component's stand-in with these versions."""
    site = Records(folder=folder / "site", pins=pins)
    site.folder.mkdir(parents=True)
    module = importlib.import_module(f"tests.standins.{component}")
    module.build(site)
    if hasattr(module, "base"):
        site.add_base(module.base(site))
    return site


def facts_served(site: Records, commands: Iterable[str]) -> set[Fact]:
    """Return all facts about the files of a site, and the results of `commands`, which start with a path."""
    found = set(site.facts) | {Fact("urls", (url,)) for url in site.urls}
    for path, data in site.contents.items():
        if _is_library(path, data):
            found |= _library_facts(Path(path).name, data)
        if path.endswith((".txt", "_VERSION")):
            found |= {Fact("contents", (path, line)) for line in _lines(data.decode())}
        if path.endswith((".service", ".path")):
            found |= {Fact("lines", (path, line)) for line in _lines(data.decode())}
    with tempfile.TemporaryDirectory() as name:
        found |= {_run(site, command, Path(name)) for command in commands}
    return found


def _lines(text: str) -> list[str]:
    """Return the lines that are not comments, section headings or `set -e`."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not _NO_FACT.match(line)]


def _is_library(path: str, data: bytes) -> bool:
    return data.startswith(b"\x7fELF") and ".so" in Path(path).name


@functools.cache
def _library_facts(name: str, data: bytes) -> frozenset[Fact]:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        dynamic = _output("readelf", "--dynamic", file.name)
        exported = _output("nm", "--dynamic", "--defined-only", file.name)
    sonames = re.findall(r"Library soname: \[(.+)\]", dynamic)
    needed = [lib for lib in re.findall(r"Shared library: \[(.+)\]", dynamic) if not _SYSTEM.fullmatch(lib)]
    symbols = [line.split()[-1] for line in exported.splitlines()]
    return frozenset(
        (
            *(Fact("sonames", (name, soname)) for soname in sonames),
            *(Fact("needed", (name, lib)) for lib in needed),
            *(Fact("symbols", (name, symbol)) for symbol in symbols if not _MARKED.search(symbol)),
        )
    )


def _run(site: Records, command: str, folder: Path) -> Fact:
    """Run a program of the stand-in; return a fact with its exit code and the first line of its output."""
    program, *words = command.split()
    if program not in site.contents:
        return Fact("runs", (command, "no such program"))
    for name, data in site.contents.items():
        if _is_library(name, data):
            soname = next(f.words[1] for f in _library_facts(Path(name).name, data) if f.kind == "sonames")
            (folder / soname).write_bytes(data)
    path = folder / "program"
    path.write_bytes(site.contents[program])
    path.chmod(0o755)
    done = subprocess.run(
        [path, *words],
        env={"LD_LIBRARY_PATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    output = (done.stdout + done.stderr).replace(str(path), program)
    line = next((line.strip() for line in output.splitlines() if line.strip()), "")
    return Fact("runs", (command, f"{done.returncode} {line}"))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

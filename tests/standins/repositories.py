"""Packages and repositories, built with the tools of each format: dpkg-deb, rpmbuild, createrepo_c."""

import base64
import gzip
import hashlib
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Files = Mapping[str, tuple[int, bytes]]  # mode and bytes by path


def run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


def lay_out(folder: Path, files: Files, links: Mapping[str, str] | None = None) -> None:
    """Write files and links to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (mode, data) in files.items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
    for name, target in (links or {}).items():
        path = folder / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def make_deb(
    folder: Path,
    *,
    name: str,
    version: str,
    arch: str,
    files: Files,
    links: Mapping[str, str],
    scripts: Mapping[str, str],
    fields: Mapping[str, str],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    arch = arch or run("dpkg", "--print-architecture").strip()
    control = {
        "Package": name,
        "Version": version,
        "Architecture": arch,
        "Maintainer": "Stand-in Vendor <packages@vendor.invalid>",
        "Section": "misc",
        "Priority": "optional",
        "Description": f"Stand-in for {name}",
        **fields,
    }
    file_version = version.partition(":")[2] or version
    path = folder / f"{name}_{file_version}_{arch}.deb"
    with tempfile.TemporaryDirectory(dir=folder) as tree:
        root = Path(tree, "root")
        lay_out(root, files, links)
        debian = root / "DEBIAN"
        debian.mkdir()
        text = "".join(f"{key}: {value}\n" for key, value in control.items())
        (debian / "control").write_text(text, encoding="utf-8")
        # dpkg keeps changed conffiles on upgrades, as in real packages.
        settings = [path for path in files if path.startswith("/etc/")]
        if settings:
            (debian / "conffiles").write_text("".join(f"{path}\n" for path in settings), encoding="utf-8")
        for script, body in scripts.items():
            (debian / script).write_text(body, encoding="utf-8")
            (debian / script).chmod(0o755)
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(path))
    return path


def write_apt(
    folder: Path,
    debs: Sequence[Path],
    *,
    suite: str,
    components: Sequence[str],
    sign: Callable[[Path], None],
) -> None:
    """Write a flat repository if the suite ends in a slash, else one with dists and pool."""
    flat = suite.endswith("/")
    top = folder / suite if flat else folder / "dists" / suite
    pool = top if flat else folder / "pool"
    for path in (top, pool):
        path.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        shutil.copy(deb, pool)
    paragraphs = [_paragraph(deb, folder) for deb in sorted(pool.glob("*.deb"))]
    archs = ("amd64", "arm64")
    if flat:
        _write_packages(top, paragraphs)
    for component in () if flat else components:
        for arch in archs:
            _write_packages(top / component / f"binary-{arch}", paragraphs)
    release = top / "Release"
    listed = sorted(path for path in top.rglob("Packages*") if path.is_file())
    head = {
        "Origin": "Stand-in",
        "Suite": suite,
        "Codename": suite,
        "Architectures": " ".join(archs),
        "Components": " ".join(components),
        "Date": "Tue, 14 Nov 2023 22:13:20 UTC",
    }
    lines = [
        f"{key}: {value}" for key, value in head.items() if not (flat and key in ("Suite", "Components"))
    ]
    lines.append("SHA256:")
    lines += [f" {_sha256(path)} {path.stat().st_size} {path.relative_to(top)}" for path in listed]
    release.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sign(release)


def _paragraph(deb: Path, folder: Path) -> str:
    control = run("dpkg-deb", "--field", str(deb)).strip()
    path = deb.relative_to(folder)
    return f"{control}\nFilename: {path}\nSize: {deb.stat().st_size}\nSHA256: {_sha256(deb)}\n"


def _write_packages(folder: Path, paragraphs: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(paragraphs).encode()
    (folder / "Packages").write_bytes(text)
    (folder / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_rpm(
    folder: Path,
    *,
    name: str,
    version: str,
    arch: str,
    files: Files,
    links: Mapping[str, str],
    scripts: Mapping[str, str],
    requires: Sequence[str],
    provides: Sequence[str],
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    number, _, release = version.partition("-")
    with tempfile.TemporaryDirectory(dir=folder) as top:
        root = Path(top, "files")
        lay_out(root, files, links)
        spec = [
            f"Name: {name}",
            f"Version: {number}",
            f"Release: {release or '1'}",
            f"Summary: Stand-in for {name}",
            "License: MIT",
            *(f"Requires: {other}" for other in requires),
            *(f"Provides: {other}" for other in provides),
            "AutoReqProv: no",
            "%description",
            f"Stand-in for {name}",
            "%install",
            f"cp -a {root}/. %{{buildroot}}/",
        ]
        for script, body in scripts.items():
            spec += [f"%{script}", body]
        spec += ["%files", *(f'"{path}"' for path in (*files, *links))]
        spec_file = Path(top, "package.spec")
        spec_file.write_text("\n".join(spec) + "\n", encoding="utf-8")
        defines = {
            "_topdir": top,
            "_build_id_links": "none",
            "debug_package": "%{nil}",
            "__os_install_post": "%{nil}",
            "_rpmfilename": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        }
        words = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
        run("rpmbuild", "-bb", "--quiet", f"--target={arch}", *words, str(spec_file))
        package = next(Path(top, "RPMS").glob("*.rpm"))
        return Path(shutil.move(package, folder / package.name))


def sign_rpm(path: Path, *, home: Path, signer: str) -> None:
    defines = {"_gpg_name": signer, "_gpg_path": home, "__gpg": shutil.which("gpg")}
    words = [word for key, value in defines.items() for word in ("--define", f"{key} {value}")]
    run("rpmsign", *words, "--addsign", str(path))


def write_yum(folder: Path, rpms: Sequence[Path]) -> None:
    for rpm in rpms:
        shutil.copy(rpm, folder)
    run("createrepo_c", "--quiet", "--no-database", str(folder))


def make_wheel(folder: Path, *, name: str, version: str, tag: str, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plain = name.replace("-", "_")
    info = f"{plain}-{version}.dist-info"
    pure = "true" if tag.endswith("any") else "false"
    everything = {path: data for path, (_, data) in files.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{path},{_record_sum(data)},{len(data)}\n" for path, data in sorted(everything.items()))
    everything[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{plain}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name_in_wheel, data in everything.items():
            entry = zipfile.ZipInfo(name_in_wheel, (2023, 11, 14, 0, 0, 0))
            entry.external_attr = (0o100000 | files.get(name_in_wheel, (0o644, b""))[0]) << 16
            archive.writestr(entry, data)
    return path


def _record_sum(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def requirement_of(wheel: Path) -> str:
    """Return the requirement line of a wheel, with its hash."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{_sha256(wheel)}"


def write_index(folder: Path, wheels: Sequence[Path]) -> None:
    """Write a simple index: a folder for each project, with links to wheels and their checksums."""
    for wheel in wheels:
        project = folder / wheel.name.split("-")[0].replace("_", "-").replace(".", "-").lower()
        project.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, project)
    for project in sorted(path for path in folder.iterdir() if path.is_dir()):
        links = "".join(
            f'<a href="{file.name}#sha256={_sha256(file)}">{file.name}</a>\n'
            for file in sorted(project.glob("*.whl"))
        )
        (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>\n")

"""Compiled code for stand-ins: small libraries and programs, and module sources for dkms."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.standins.repositories import run
from tests.standins.site import Content, Site

MODULE = """\
#include <linux/module.h>
static int __init standin_init(void) { return -ENODEV; }
static void __exit standin_exit(void) {}
module_init(standin_init);
module_exit(standin_exit);
MODULE_DESCRIPTION("Stand-in for %(module)s");
MODULE_LICENSE("Dual BSD/GPL");
MODULE_VERSION("%(version)s");
"""
DKMS = """\
PACKAGE_NAME="%(name)s"
PACKAGE_VERSION="%(version)s"
BUILT_MODULE_NAME[0]="%(module)s"
DEST_MODULE_LOCATION[0]="/kernel/drivers/extra"
MAKE[0]="make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build modules"
CLEAN="true"
AUTOINSTALL="yes"
"""
# Maintainer scripts of Debian packages with dkms modules.
INSTALL = """\
#!/bin/sh
exec /usr/lib/dkms/common.postinst %(name)s %(version)s /usr/share/%(name)s
"""
REMOVE = """\
#!/bin/sh
[ -z "$(dkms status -m %(name)s -v %(version)s)" ] || dkms remove -m %(name)s -v %(version)s --all
"""


def library(source: str, *, soname: str, libraries: Sequence[bytes] = (), nodes: str = "") -> bytes:
    """Return a shared library that is linked with `libraries`, whose SONAMEs it needs.

    `nodes` is a version script with the version nodes of its symbols.
    """
    options = ["-shared", "-fPIC", f"-Wl,-soname,{soname}"]
    options += ["-Wl,--version-script,nodes"] if nodes else []
    return _compile(source, tuple(options), tuple(libraries), nodes)


def program(source: str, *, libraries: Sequence[bytes] = (), folder: str = "") -> bytes:
    """Return a program with the library search path `folder`."""
    options = [f"-Wl,-rpath,{folder}"] if folder else []
    return _compile(source, tuple(options), tuple(libraries))


@cache
def _compile(source: str, options: Sequence[str], libraries: Sequence[bytes], nodes: str = "") -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source.c").write_text(source, encoding="utf-8")
        (folder / "nodes").write_text(nodes, encoding="utf-8")
        for number, content in enumerate(libraries):
            (folder / f"{number}.so").write_bytes(content)
        words = ["-O1", "-s", *options, "-o", "result", "source.c", "-L.", "-Wl,--no-as-needed"]
        words += [f"-l:{number}.so" for number in range(len(libraries))]
        run("gcc", *words, cwd=folder)
        return (folder / "result").read_bytes()


def dkms_package(
    site: Site,
    package: str,
    version: str,
    *,
    module: str,
    name: str = "",
    revision: str = "-1",
    source: str = MODULE,
    postinst: str = INSTALL,
    depends: Sequence[str] = (),
    files: Mapping[str, Content] | None = None,
) -> Path:
    """Return a package with module sources, which dkms registers as `name` and compiles on installation."""
    words = {"name": name or package, "module": module, "version": version}
    folder = f"/usr/src/{words['name']}-{version}"
    sources: dict[str, Content] = {
        f"{folder}/dkms.conf": DKMS % words,
        f"{folder}/Makefile": f"obj-m := {module}.o\n",
        f"{folder}/{module}.c": source % words,
    }
    scripts = {"postinst": postinst % words, "prerm": REMOVE % words}
    return site.deb(
        package, version + revision, {**sources, **(files or {})}, depends=["dkms", *depends], scripts=scripts
    )

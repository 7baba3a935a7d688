"""Build the root file system of a base image from a distribution's package archive with mmdebstrap."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from builder.adapters.host import private, process
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror, apt_options
from builder.adapters.upstream.suites import SuiteVerifier
from builder.errors import BuildError, MissingError
from builder.model import Suite, System

_TIMEOUT_S = 1800

# Script that makes the root file system independent of the build host: package sources from the
# distribution's own example, no name servers, no host name.
_CUSTOMIZE = """\
set -eu
examples="$1/usr/share/doc/apt/examples"
if [ -e "$examples/sources.list" ]; then
    sed -n 's/^\\(deb .*\\) main.*/\\1 {areas}/p' "$examples/sources.list"
else
    awk '/^URIs:/ {{ uri = $2 }} /^Suites:/ {{ for (i = 2; i <= NF; i++) print "deb", uri, $i, "{areas}" }}' \
        "$examples/debian.sources"
fi > "$1/etc/apt/sources.list"
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"
: > "$1/etc/resolv.conf"
: > "$1/etc/hostname"
: > "$1/etc/machine-id"
# Backup files, which later layers would have to delete.
for name in group gshadow passwd shadow subgid subuid; do
    rm -f "$1/etc/$name-"
done
rm -f "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old
"""


def make_root(
    run: Run,
    system: System,
    mirror: Mirror,
    *,
    say: process.OnLine,
    suites: Sequence[Suite] = (),
    note: process.OnLine | None = None,
    customize: Sequence[str] = (),
    epoch: int | None = None,
) -> Path:
    """Build a root file system and return its tar in the run's scratch folder; `suites` are locked.

    `customize` is shell code that runs after the packages are configured, with the new root in $1. With
    `epoch`, no file has a later time.
    """
    if system.bootstrap is None or system.family != "debian":
        raise BuildError(
            f"system '{system.name}' cannot be bootstrapped: mmdebstrap supports only Debian systems",
            hint=f"set an image with a digest in catalog/systems/{system.name}.toml",
        )
    if not shutil.which("mmdebstrap"):
        raise MissingError(
            f"the base of '{system.name}' needs mmdebstrap, which is not installed",
            hint="apt-get install mmdebstrap",
        )
    recipe = system.bootstrap
    # A killed mmdebstrap leaves its root file system with mounts; the end of the run removes this folder.
    settings = {"TMPDIR": str(run.root_dir)}
    if epoch is not None:
        settings["SOURCE_DATE_EPOCH"] = str(epoch)
    hook = "".join((_CUSTOMIZE.format(areas=" ".join(recipe.areas)), *customize))
    verifier = SuiteVerifier(system=system, suites=suites, mirror=mirror)
    # Other users can read an argv: sources, whose URLs may contain a password, are passed on stdin.
    sources = run.scratch / "sources.list"
    private.write(sources, "".join(f"{line}\n" for line in mirror.apt_sources))
    tar = run.scratch / f"{system.name}.tar"
    argv = [
        *("mmdebstrap", "--variant=apt", f"--include={','.join(recipe.packages)}"),
        *(f"--dpkgopt={option}" for option in (*recipe.dpkg_options, "force-unsafe-io")),
        *(f"--aptopt={option}" for option in apt_options(mirror)),
        # Hooks are passed as text: mmdebstrap's user namespace cannot read files of the scratch folder.
        *(f"--extract-hook={verifier.hook}", f"--customize-hook={hook}"),
        *(recipe.suite, str(tar), *(["-"] if mirror.apt_sources else [])),
    ]

    def on_line(line: str) -> None:
        say(line)
        verifier.line(line)

    done = process.run(
        argv,
        timeout_s=_TIMEOUT_S,
        cancelled=run.cancelled,
        on_line=on_line,
        stdin=sources,
        env=process.inherited_environment(**mirror.proxies, **settings),  # apt reads the proxies
    )
    if (done.code == 0 or verifier.lists) and (moved := verifier.verify()):
        (note or say)(moved)
    if done.code != 0:
        raise BuildError(
            f"mmdebstrap could not build the base of '{system.name}' (exit code {done.code})",
            hint="check that the archive is reachable (mirror.apt in site.toml): builder doctor",
            details=done.details,
        )
    return tar

"""Stand-in for enroot: the packages of a release, with a program that evaluates its configuration."""

import shutil

from tests.standins.site import Site

RELEASES = "https://github.com/NVIDIA/enroot/releases/download"
# Like enroot, the script reads enroot.conf and creates the configured folders for every command.
PROGRAM = """\
#!/bin/bash
set -eu
while read -r key value; do
    [[ $key =~ ^ENROOT_[A-Z_]+$ ]] && export "$key=$(eval echo "$value")"
done < /etc/enroot/enroot.conf
(umask 077; mkdir -p "$ENROOT_RUNTIME_PATH" "$ENROOT_CACHE_PATH" "$ENROOT_DATA_PATH")
case "${1:-}" in
    version) echo '%s' ;;
    list) ls "$ENROOT_DATA_PATH" ;;
    *) echo "stand-in: $*" >&2; exit 1 ;;
esac
"""
SETTINGS = """\
#ENROOT_RUNTIME_PATH        ${XDG_RUNTIME_DIR}/enroot
#ENROOT_CACHE_PATH          ${XDG_CACHE_HOME}/enroot
#ENROOT_DATA_PATH           ${XDG_DATA_HOME}/enroot
"""
RIGHTS = """\
#!/bin/sh
set -e
setcap cap_sys_admin+pe "$(command -v enroot-mksquashovlfs)"
setcap cap_sys_admin,cap_mknod+pe "$(command -v enroot-aufs2ovlfs)"
"""
HELPER = "#!/bin/sh\necho stand-in >&2\nexit 1\n"


def build(site: Site) -> None:
    version = site.pin("enroot")
    files = {
        "/usr/bin/enroot": PROGRAM % version,
        "/usr/bin/enroot-mksquashovlfs": HELPER,
        "/usr/bin/enroot-aufs2ovlfs": HELPER,
        "/usr/bin/enroot-nsenter": HELPER,
        "/etc/enroot/enroot.conf": SETTINGS,
        "/etc/enroot/hooks.d/10-home.sh": HELPER,
        "/usr/share/enroot/hooks.d/50-slurm-pmi.sh": HELPER,
        "/usr/share/enroot/hooks.d/50-slurm-pytorch.sh": HELPER,
    }
    needs = ["bash (>= 4.2)", "curl", "gawk | mawk", "jq (>= 1.5)", "parallel", "passwd"]
    needs += ["squashfs-tools", "zstd"]
    debs = [
        site.deb("enroot", f"{version}-1", files, depends=needs),
        site.deb(
            "enroot+caps",
            f"{version}-1",
            {},
            depends=[f"enroot (= {version}-1)", "libcap2-bin"],
            scripts={"postinst": RIGHTS},
        ),
    ]
    rpms = [
        site.rpm("enroot", f"{version}-1.el8", files, depends=["bash", "jq", "parallel", "squashfs-tools"]),
        site.rpm(
            "enroot+caps",
            f"{version}-1.el8",
            {},
            depends=[f"enroot = {version}-1.el8", "libcap"],
            scripts={"post": RIGHTS},
        ),
    ]
    for package in (*debs, *rpms):
        shutil.copy(package, site.url_file(f"{RELEASES}/v{version}/{package.name}"))

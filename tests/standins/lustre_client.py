"""Stand-in for the FSx repository: programs, and modules that contain only their modinfo fields."""

import subprocess
import tempfile
from pathlib import Path

from tests.standins.site import Site

REPOSITORY = "https://fsx-lustre-client-repo.s3.amazonaws.com/ubuntu"
KEY = "https://fsx-lustre-client-repo-public-keys.s3.amazonaws.com/fsx-ubuntu-public-key.asc"
# Module → its folder below /lib/modules/KERNEL/updates/kernel.
MODULES = {"lnet": "net/lustre", "lustre": "fs/lustre"}
# Further kernels for which the vendor has modules.
OTHERS = ("6.1.0-1-cloud-amd64", "6.8.0-1039-aws")
PROGRAM = "#!/bin/sh\necho stand-in\n"
# As in the real package, depmod reads the modules of the running kernel. The first line ends the script in a
# container, where these modules are not installed and depmod would fail.
POSTINST = """\
#!/bin/sh
[ -d "/lib/modules/$(uname -r)" ] || exit 0
DEPMOD_DIR="/etc/depmod.d"
LUSTRE_DEPMOD_FILE="${DEPMOD_DIR}/lustre.conf"
[ ! -d ${DEPMOD_DIR} ] && { mkdir -p ${DEPMOD_DIR}; }
[ ! -e ${LUSTRE_DEPMOD_FILE} ] && { echo "search updates/kernel built-in" > ${LUSTRE_DEPMOD_FILE}; }
depmod -a
"""


def compile_module(name: str, version: str, kernel: str) -> bytes:
    """Return an object file with the fields that modinfo reads; it cannot be loaded."""
    facts = {"license": "GPL", "version": version, "name": name, "vermagic": f"{kernel} SMP stand-in"}
    lines = [
        f'__attribute__((section(".modinfo"), used)) static const char {key}[] = "{key}={value}";'
        for key, value in facts.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, module = Path(folder, "module.c"), Path(folder, "module.ko")
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        subprocess.run(["gcc", "-c", "-o", str(module), str(source)], check=True, capture_output=True)
        return module.read_bytes()


def build(site: Site) -> None:
    version = site.pin("lustre_client")
    programs = ("/usr/sbin/lctl", "/usr/bin/lfs", "/sbin/mount.lustre")
    debs = [site.deb("lustre-client-utils", version, dict.fromkeys(programs, PROGRAM))]
    for kernel in (site.pin("kernel"), *OTHERS):
        folder = f"/lib/modules/{kernel}/updates/kernel"
        debs.append(
            site.deb(
                f"lustre-client-modules-{kernel}",
                version,
                {
                    f"{folder}/{place}/{name}.ko": compile_module(name, version, kernel)
                    for name, place in MODULES.items()
                },
                scripts={"postinst": POSTINST},
            )
        )
    newest = f"lustre-client-modules-{OTHERS[-1]}"
    debs.append(site.deb("lustre-client-modules-aws", version, {}, depends=[newest]))
    site.apt_repository(REPOSITORY, debs, KEY, suite="bookworm", components=["main"])

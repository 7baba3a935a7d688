"""Stand-in for the NVIDIA container toolkit: packages, units, and the `configure` command of nvidia-ctk."""

from tests.standins import native
from tests.standins.site import Site

STABLE = "https://nvidia.github.io/libnvidia-container"
PROGRAM = """\
#!/usr/bin/python3
import json, pathlib, sys

RUNTIME = "nvidia-container-runtime"
DROP_IN = '''version = 2

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia.options]
BinaryName = "/usr/bin/nvidia-container-runtime"
'''


def docker():
    path = pathlib.Path("/etc/docker/daemon.json")
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings.setdefault("runtimes", {})["nvidia"] = {"args": [], "path": RUNTIME}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(settings, indent=4))


def containerd():
    path = pathlib.Path("/etc/containerd/conf.d/99-nvidia.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(DROP_IN)


match sys.argv[1:]:
    case ["--version"]:
        print("NVIDIA Container Toolkit CLI version VERSION")
    case ["runtime", "configure", "--runtime=docker"]:
        docker()
    case ["runtime", "configure", "--runtime=containerd"]:
        containerd()
    case _:
        sys.exit("stand-in: " + " ".join(sys.argv[1:]))
"""
SERVICE = """\
[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=|/usr/bin/nvidia-smi
ConditionPathExists=|/usr/sbin/nvidia-smi
ConditionPathExists=/usr/bin/nvidia-ctk

[Service]
Type=oneshot
EnvironmentFile=-/etc/nvidia-container-toolkit/cdi-refresh.env
ExecCondition=/usr/bin/grep -qE '/nvidia.ko' /lib/modules/%v/modules.dep
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml
CapabilityBoundingSet=CAP_SYS_MODULE CAP_SYS_ADMIN CAP_MKNOD

[Install]
WantedBy=multi-user.target
"""
PATH = """\
[Unit]
Description=Trigger CDI refresh on NVIDIA driver or toolkit install / upgrade events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/lib/modules/%v/modules.dep.bin
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""
HELPER = "#!/bin/sh\necho stand-in >&2\nexit 1\n"
LIBRARY = "int nvc_version(void) { return 1; }\n"


def build(site: Site) -> None:
    pin = site.pin("nvidia_container_toolkit").partition("-")[0]
    major, minor, _ = pin.split(".")
    debs, rpms = [], []
    for version in (pin, f"{major}.{int(minor) + 1}.0"):
        for packages, make, folder in (
            (debs, site.deb, "/usr/lib/x86_64-linux-gnu"),
            (rpms, site.rpm, "/usr/lib64"),
        ):
            equal = "{} (= {})" if packages is debs else "{} = {}"
            full = f"{version}-1"
            library = {
                f"{folder}/libnvidia-container.so.1": native.library(
                    LIBRARY, soname="libnvidia-container.so.1"
                )
            }
            base = {
                "/usr/bin/nvidia-ctk": PROGRAM.replace("VERSION", version),
                "/usr/bin/nvidia-container-runtime": HELPER,
                "/usr/bin/nvidia-cdi-hook": HELPER,
                "/lib/systemd/system/nvidia-cdi-refresh.service": SERVICE,
                "/lib/systemd/system/nvidia-cdi-refresh.path": PATH,
            }
            tools = {"/usr/bin/nvidia-container-cli": HELPER}
            hook = {"/usr/bin/nvidia-container-runtime-hook": HELPER}
            needs = {
                "libnvidia-container1": (library, []),
                "libnvidia-container-tools": (tools, ["libnvidia-container1"]),
                "nvidia-container-toolkit-base": (base, []),
                "nvidia-container-toolkit": (
                    hook,
                    ["libnvidia-container-tools", "nvidia-container-toolkit-base"],
                ),
            }
            for name, (files, others) in needs.items():
                depends = [equal.format(other, full) for other in others]
                packages.append(make(name, full, files, depends=depends))
    site.apt_repository(f"{STABLE}/stable/deb/amd64/", debs, f"{STABLE}/gpgkey")
    site.rpm_repository(f"{STABLE}/stable/rpm/x86_64/", rpms, f"{STABLE}/gpgkey")

"""Queries about NCCL on a host: its settings, and the names, paths and interfaces of its network plugins."""

import re

# Python program that loads a library by its file name and prints its plugin interfaces and the paths of the
# loaded libfabric.
_LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
found = [kind + str(n) for kind in ("ncclNetPlugin_v", "ncclTunerPlugin_v") for n in range(1, 30)
         if hasattr(library, kind + str(n))]
print(*found, *{line.split()[-1] for line in open("/proc/self/maps") if "libfabric" in line})
"""


def settings(host):
    """Return the settings in /etc/nccl.conf."""
    file = host.file("/etc/nccl.conf")
    lines = file.content_string.splitlines() if file.exists else []
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def plugin_names(host):
    """Return the names of the plugin libraries that NCCL tries by default, in order.

    NCCL uses a path or a file name such as libx.so unchanged; `ofi` stands for libnccl-net-ofi.so.
    """
    named = settings(host).get("NCCL_NET_PLUGIN", "")
    return [
        name if "/" in name or re.fullmatch(r"lib.+\.so", name) else f"libnccl-net-{name}.so"
        for name in named.split(",")
        if name
    ] or ["libnccl-net.so"]


def plugins(host):
    """Return the real paths of all NCCL network plugins in the loader cache, by their paths in the cache."""
    found = host.check_output("ldconfig -p | awk '$1 ~ /^libnccl-net.*[.]so$/ {print $NF}'").split()
    return {path: host.check_output("readlink --canonicalize-existing %s", path) for path in found}


def load(host, name):
    """Load a plugin by name, as NCCL does; return its interfaces and the paths of the loaded libfabric."""
    words = host.check_output("python3 -c %s %s", _LOAD, name).split()
    return [word for word in words if "/" not in word], [word for word in words if "/" in word]

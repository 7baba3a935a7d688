"""How NCCL looks for its network plugin on a host: its settings, the names it tries, what the loader does."""

# Loads a library by its bare name; says which interfaces it has, and where the libraries of EFA came from.
_LOAD = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
found = [kind + str(n) for kind in ("ncclNetPlugin_v", "ncclTunerPlugin_v") for n in range(1, 30)
         if hasattr(library, kind + str(n))]
print(*found, *{line.split()[-1] for line in open("/proc/self/maps") if "libfabric" in line})
"""


def settings(host):
    """What /etc/nccl.conf sets."""
    file = host.file("/etc/nccl.conf")
    lines = file.content_string.splitlines() if file.exists else []
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def plugin_names(host):
    """The libraries that NCCL tries, in order, when a job says nothing."""
    named = settings(host).get("NCCL_NET_PLUGIN", "")
    return [f"libnccl-net-{name}.so" for name in named.split(",") if name] or ["libnccl-net.so"]


def plugins(host):
    """Path → the file behind it of every plugin that the loader knows."""
    found = host.check_output("ldconfig -p | awk '$1 ~ /^libnccl-net.*[.]so$/ {print $NF}'").split()
    return {path: host.check_output("readlink --canonicalize-existing %s", path) for path in found}


def load(host, name):
    """(interfaces, paths of libfabric) of a library that is loaded by its bare name, as NCCL does it."""
    words = host.check_output("python3 -c %s %s", _LOAD, name).split()
    return [word for word in words if "/" not in word], [word for word in words if "/" in word]

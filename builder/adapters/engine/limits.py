"""Limits of containers that run code of an image or of roles: memory, processes and capabilities."""

from typing import Any

from builder.adapters.engine.client import Engine

_PROCESSES = 4096
_MEMORY_SHARE = 0.8
# Capabilities that packages and roles need: the engine's default set without AUDIT_WRITE, MKNOD and NET_RAW.
_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID"),
    *("SETPCAP", "SETUID", "SYS_CHROOT"),
)


def limits(engine: Engine) -> dict[str, Any]:
    """Return the host config options that limit a container."""
    return {
        "cap_drop": ["ALL"],
        "cap_add": list(_CAPABILITIES),
        "security_opt": ["no-new-privileges"],
        **bounds(engine),
    }


def bounds(engine: Engine) -> dict[str, Any]:
    """Return options for memory and processes; a limit that the engine's kernel lacks is left out."""
    info, options = engine.info(), {}
    if info.get("PidsLimit"):
        options["pids_limit"] = _PROCESSES
    if info.get("MemoryLimit") and info.get("MemTotal"):
        options["mem_limit"] = int(info["MemTotal"] * _MEMORY_SHARE)
    return options

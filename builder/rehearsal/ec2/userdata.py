"""Translate cloud-init user data into a script for an instance's first boot.

Refuses user data that the rehearsal does not support, before the instance starts, because an instance with
half of its set-up would make tests meaningless.
"""

import base64
import email
import gzip
import shlex
import zlib
from collections.abc import Callable, Iterator, Mapping
from email.message import Message
from typing import Any

import yaml

FOLDER = "/var/lib/cloud/instance"
LOG = "/var/log/cloud-init-output.log"
FINISHED = f"{FOLDER}/boot-finished"

_FILE_KEYS = {"path", "content", "permissions", "owner", "encoding", "append", "defer"}
_USER_KEYS = {"name", "shell", "groups", "sudo", "ssh_authorized_keys", "lock_passwd", "gecos"}
_HOST_KEYS = {f"{kind}_{part}" for kind in ("rsa", "ecdsa", "ed25519") for part in ("private", "public")}
_DEFAULT_USER = '"$(id -nu 1000)"'

Lines = Iterator[str]


class Unsupported(Exception):
    """User data that the rehearsal does not support."""


def to_script(user_data: bytes) -> str:
    """Return the shell script for the first boot; "" if there is nothing to do."""
    parts = [line for kind, text in _parts(_unpacked(user_data)) for line in _part(kind, text)]
    if not parts:
        return ""
    head = [
        f"exec >> {LOG} 2>&1",
        f"mkdir -p {FOLDER}/scripts",
        f"trap 'date > {FINISHED}' EXIT",
    ]
    return "\n".join([*head, *parts])


def _unpacked(user_data: bytes) -> str:
    try:
        raw = gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data
        return raw.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise Unsupported(f"user data is not text: {error}") from error


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Yield (first line or content type, content) for each part of the user data."""
    if not text.strip():
        return
    head = text.lstrip()[:200].lower()
    if not head.startswith(("content-type: multipart", "mime-version:")):
        yield text.split("\n", 1)[0].strip(), text
        return
    for part in _leaves(email.message_from_string(text.lstrip())):
        payload = part.get_payload(decode=True)
        content = payload.decode() if isinstance(payload, bytes) else ""
        yield from _parts(content) if content.startswith("#") else ((part.get_content_type(), content),)


def _leaves(message: Message) -> Iterator[Message]:
    for part in message.walk():
        if not part.is_multipart():
            yield part


def _part(kind: str, text: str) -> Lines:
    if kind.startswith("#!"):
        # The checksum makes the file name of each part unique.
        path = f"{FOLDER}/scripts/part-{zlib.crc32(text.encode()):08x}"
        yield from _file(path, text.encode(), mode="0700")
        yield path
    elif kind == "#cloud-config" or kind == "text/cloud-config":
        yield from _config(text)
    else:
        raise Unsupported(f"user data begins with {kind[:40]!r}; only #! and #cloud-config are supported")


def _config(text: str) -> Lines:
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Unsupported(f"cloud-config is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise Unsupported("cloud-config is not a mapping")
    unknown = sorted(set(config) - set(_MODULES))
    if unknown:
        raise Unsupported(
            f"cloud-config: unsupported keys {', '.join(map(str, unknown))}; supported are "
            f"{', '.join(_MODULES)}"
        )
    for name, module in _MODULES.items():  # in cloud-init's order, not that of the file
        if config.get(name):
            yield from module(config[name])


def _commands(commands: Any) -> Lines:
    for command in _list("runcmd", commands):
        words = command if isinstance(command, list) else None
        yield shlex.join(map(str, words)) if words else str(command)


def _write_files(files: Any) -> Lines:
    for file in _list("write_files", files):
        _known("write_files", file, _FILE_KEYS)
        content = str(file.get("content", "")).encode()
        encoding = str(file.get("encoding", "text/plain"))
        if encoding in ("b64", "base64"):
            content = base64.b64decode(content)
        elif encoding != "text/plain":
            raise Unsupported(f"write_files: unsupported encoding {encoding!r}")
        yield from _file(
            str(file["path"]),
            content,
            mode=str(file.get("permissions", "0644")),
            owner=str(file.get("owner", "root:root")),
            append=bool(file.get("append")),
        )


def _users(users: Any) -> Lines:
    for user in _list("users", users):
        if user == "default":
            continue
        _known("users", user, _USER_KEYS)
        name, groups = str(user["name"]), user.get("groups", [])
        listed = groups if isinstance(groups, str) else ",".join(groups)
        options = ["--create-home", "--shell", str(user.get("shell", "/bin/bash"))]
        options += ["--groups", listed.replace(" ", "")] if listed else []
        yield f"id -u {shlex.quote(name)} >/dev/null 2>&1 || {shlex.join(['useradd', *options, name])}"
        for rule in _strings(user.get("sudo")):
            path = "/etc/sudoers.d/90-cloud-init-users"
            yield from _file(path, f"{name} {rule}\n".encode(), mode="0440", append=True)
        if keys := user.get("ssh_authorized_keys"):
            yield from _authorize(_strings(keys), shlex.quote(name))


def _authorized_keys(keys: Any) -> Lines:
    yield from _authorize(_strings(keys), _DEFAULT_USER)


def _authorize(keys: list[str], user: str) -> Lines:
    yield f"folder=$(getent passwd {user} | cut -d: -f6)/.ssh"
    yield f'install -d -m 0700 -o {user} "$folder"'
    for key in keys:
        yield f"printf '%s\\n' {shlex.quote(key)} >> \"$folder/authorized_keys\""
    yield f'chown {user} "$folder/authorized_keys"; chmod 0600 "$folder/authorized_keys"'


def _host_keys(keys: Any) -> Lines:
    """Install these host keys in place of the generated ones, as cloud-init does before sshd starts."""
    _known("ssh_keys", keys, _HOST_KEYS)
    yield "rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub"
    for name, text in keys.items():
        kind, _, part = str(name).partition("_")
        path, mode = f"/etc/ssh/ssh_host_{kind}_key", "0600"
        if part == "public":
            path, mode = f"{path}.pub", "0644"
        yield from _file(path, str(text).encode(), mode=mode)
    yield "systemctl try-restart ssh.service"


def _hostname(name: Any) -> Lines:
    yield f"printf '%s\\n' {shlex.quote(str(name))} > /etc/hostname"


def _file(path: str, content: bytes, *, mode: str, owner: str = "root:root", append: bool = False) -> Lines:
    quoted, redirection = shlex.quote(path), ">>" if append else ">"
    yield f'mkdir -p "$(dirname {quoted})"'
    yield f"echo {base64.b64encode(content).decode()} | base64 -d {redirection} {quoted}"
    yield f"chmod {shlex.quote(mode)} {quoted}; chown {shlex.quote(owner)} {quoted}"


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unsupported(f"cloud-config: {name} is not a list")
    return value


def _strings(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or ()]


def _known(name: str, entry: Any, keys: set[str]) -> None:
    if not isinstance(entry, Mapping):
        raise Unsupported(f"cloud-config: {name}: {entry!r} is not a mapping")
    if unknown := sorted(set(entry) - keys):
        raise Unsupported(f"cloud-config: {name}: unsupported keys {', '.join(unknown)}")


_MODULES: Mapping[str, Callable[[Any], Lines]] = {
    "bootcmd": _commands,
    "ssh_keys": _host_keys,
    "hostname": _hostname,
    "write_files": _write_files,
    "users": _users,
    "ssh_authorized_keys": _authorized_keys,
    "runcmd": _commands,
}

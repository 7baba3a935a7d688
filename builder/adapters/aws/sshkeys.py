"""Create the SSH keys of a run: a temporary key pair that EC2 imports, and the host keys of instances."""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.aws.account import Account, calling_aws, ignoring, specifications
from builder.adapters.host import process
from builder.errors import BuildError, MissingError


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """Key pair with its name in EC2 and the file of the private key."""

    name: str
    file: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class HostKey:
    """Host key that an instance gets before the first connection, and the known_hosts file that pins it."""

    user_data: str  # cloud-config that installs the key
    known_hosts: Path
    alias: str  # name of the host in `known_hosts`


def host_key(folder: Path, alias: str) -> HostKey:
    """Create a host key for an instance; the private key is only in the instance's user data."""
    file, public = _generate(folder / "host.key", alias)
    try:
        text = public.read_text(encoding="utf-8").strip()
        keys = {"ed25519_private": file.read_text(encoding="utf-8"), "ed25519_public": text}
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"{alias} {text}\n", encoding="utf-8")
    finally:
        file.unlink()
        public.unlink()
    # JSON is YAML.
    config = json.dumps({"ssh_keys": keys})
    return HostKey(user_data=f"#cloud-config\n{config}\n", known_hosts=known_hosts, alias=alias)


def _generate(file: Path, comment: str) -> tuple[Path, Path]:
    """Create an ed25519 key; return the files of the private and the public key."""
    file.parent.mkdir(parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file)]
    done = process.run(argv, timeout_s=60)
    if done.code != 0:
        raise MissingError(f"ssh-keygen failed: {done.tail}", hint="apt-get install openssh-client")
    return file, file.with_name(f"{file.name}.pub")


def escaped(path: Path) -> str:
    """Return a path for use between double quotes in ssh_config, where % begins a token."""
    return re.sub(r'(["\\])', r"\\\1", str(path)).replace("%", "%%")


@contextmanager
def key_pair(
    account: Account, name: str, folder: Path, tags: Mapping[str, str], *, kept: threading.Event
) -> Iterator[KeyPair]:
    """Create a key pair and delete it at the end of the block, unless `kept` is set.

    The key type is ed25519, because every version of Packer can log in with it.
    """
    file, public = _generate(folder / f"{name}.key", name)
    try:
        _import(account, name, public.read_bytes(), tags)
        try:
            yield KeyPair(name=name, file=file)
        finally:
            if not kept.is_set():
                with calling_aws(f"deleting the key {name}"):
                    account.client("ec2").delete_key_pair(KeyName=name)
    finally:
        file.unlink(missing_ok=True)
        public.unlink(missing_ok=True)


def _import(account: Account, name: str, public: bytes, tags: Mapping[str, str]) -> None:
    """Import a key; an existing key with the run's name and tags is from a call whose response was lost."""
    ec2 = account.client("ec2")
    with calling_aws(f"importing the key {name}"):
        with ignoring("InvalidKeyPair.Duplicate"):
            ec2.import_key_pair(
                KeyName=name,
                PublicKeyMaterial=public,
                TagSpecifications=specifications(tags, ["key-pair"]),
            )
            return
        own = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
        if ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}, *own])["KeyPairs"]:
            return
    raise BuildError(
        f"the key pair {name} exists in {account.region}, and this run did not create it",
        hint="build again: each run has a name of its own",
    )

"""Temporary SSH key pair of a run: created locally, imported into EC2, deleted from both at the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.aws.account import Account, calling_aws, ignoring, specifications
from builder.adapters.host import process
from builder.errors import MissingError


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """Key pair with its name in EC2 and the file of the private key."""

    name: str
    file: Path


@contextmanager
def key_pair(account: Account, name: str, folder: Path, tags: Mapping[str, str]) -> Iterator[KeyPair]:
    """Create a key pair and delete it at the end of the block.

    The type is ed25519, because every version of Packer can log in with it.
    """
    file = folder / f"{name}.key"
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)]
    done = process.run(argv, timeout_s=60)
    if done.code != 0:
        raise MissingError(f"ssh-keygen failed: {done.tail}", hint="apt-get install openssh-client")
    public = file.with_name(f"{file.name}.pub")
    try:
        # The name is unique to the run: an existing key is from a call whose response was lost.
        with calling_aws(f"importing the key {name}"), ignoring("InvalidKeyPair.Duplicate"):
            account.client("ec2").import_key_pair(
                KeyName=name,
                PublicKeyMaterial=public.read_bytes(),
                TagSpecifications=specifications(tags, ["key-pair"]),
            )
        yield KeyPair(name=name, file=file)
    finally:
        file.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        with calling_aws(f"deleting the key {name}"):
            account.client("ec2").delete_key_pair(KeyName=name)

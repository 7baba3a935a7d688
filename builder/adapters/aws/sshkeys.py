"""A key pair for one run: made here, known to EC2 by the run's name, gone from both when the run ends."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.aws.account import Account, calling_aws, ignoring, specifications
from builder.adapters.host import process
from builder.errors import MissingError


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPair:
    """`name` is what EC2 calls it; `file` the private half, which only its owner reads."""

    name: str
    file: Path


@contextmanager
def key_pair(account: Account, name: str, folder: Path, tags: Mapping[str, str]) -> Iterator[KeyPair]:
    """ed25519, because every version of Packer can log in with it and no key is left behind by any."""
    file = folder / f"{name}.key"
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)]
    made = process.run(argv, timeout_s=60)
    if made.code != 0:
        raise MissingError(f"ssh-keygen made no key: {made.tail}", hint="apt-get install openssh-client")
    public = file.with_name(f"{file.name}.pub")
    try:
        # The name is the run's own: one that is there already is ours, and its answer was lost on the way.
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

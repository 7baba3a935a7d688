"""The state of a rehearsal as a file, for the time between `down --keep-state` and `up`.

moto keeps everything in objects, so they are written as they are; a file is good for the same moto and the
same Python only, and says which they were.
"""

import marshal
import pickle
import sys
import threading
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import moto
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from moto.backends import get_backend
from moto.core.base_backend import BackendDict
from moto.ssm.models import ParameterDict

from builder.errors import BuildError, UsageError
from builder.rehearsal.ec2.cloud import Cloud
from builder.rehearsal.ec2.images import Image, ImageBackend
from builder.rehearsal.ec2.parameters import Parameters
from builder.rehearsal.registry.ecr import RehearsedEcr, StoredImage

# They bear module names of moto, which has nothing of their names.
_OWN = {one.__name__: one for one in (Cloud, Image, ImageBackend, Parameters, RehearsedEcr, StoredImage)}
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_MADE_BY = f"moto {moto.__version__}, Python {sys.version_info.major}.{sys.version_info.minor}"


def _own(name: str) -> type:
    return _OWN[name]


def _function(code: bytes, module: str) -> FunctionType:
    return FunctionType(marshal.loads(code), vars(sys.modules[module]))  # noqa: S302 (written by us)


def _private_key(pem: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(pem, None)


class _Pickler(pickle.Pickler):
    def reducer_override(self, found: Any) -> Any:
        if isinstance(found, type) and found in _OWN.values():
            return _own, (found.__name__,)
        if isinstance(found, FunctionType) and found.__name__ == "<lambda>" and found.__closure__ is None:
            return _function, (marshal.dumps(found.__code__), found.__module__)
        if isinstance(found, ParameterDict):  # a mapping that is made from other things than its content
            return (
                ParameterDict,
                (found.account_id, found.region_name),
                vars(found),
                None,
                iter(found.items()),
            )
        if isinstance(found, get_args(PrivateKeyTypes)):  # of KMS, which encrypted disks have one of
            pem = found.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            return _private_key, (pem,)
        if type(found) in _LOCKS:
            return _LOCKS[type(found)], ()
        return NotImplemented


def save(path: Path) -> None:
    """Everything that this process's rehearsal has, or an error and no file."""
    backends = [
        (service.service_name, account, region, backend)
        for service in BackendDict._instances  # type: ignore[misc]
        for account, regions in service.items()
        for region, backend in regions.items()
    ]
    content = BytesIO()
    try:
        content.write(f"{_MADE_BY}\n".encode())
        _Pickler(content).dump(backends)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise BuildError(
            f"the state of the rehearsal cannot be kept: {error}", hint="builder rehearse down"
        ) from error
    partial = path.with_suffix(".partial")
    partial.write_bytes(content.getvalue())
    partial.rename(path)


def load(path: Path) -> None:
    """Into this process, whose rehearsal has not been used yet."""
    made_by, _, content = path.read_bytes().partition(b"\n")
    if made_by.decode(errors="replace") != _MADE_BY:
        raise _unusable(f"is not from {_MADE_BY}")
    try:
        backends = pickle.loads(content)  # noqa: S301 (our own file, in a folder of ours)
    except (pickle.UnpicklingError, AttributeError, ImportError, KeyError, EOFError, ValueError) as error:
        raise _unusable(f"cannot be read: {error!r}") from error
    for service, account, region, backend in backends:
        get_backend(service)[account][region] = backend


def _unusable(why: str) -> UsageError:
    return UsageError(f"the kept state of the rehearsal {why}", hint="builder rehearse down, then up")

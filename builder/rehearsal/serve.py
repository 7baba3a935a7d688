"""The background process of a rehearsal: serves the cloud, registries and proxy until SIGTERM.

    python -m builder.rehearsal.serve FOLDER

FOLDER contains the settings. Only this process loads moto. It cannot connect to the engine: the broker, a
child process, starts and stops the machines. This process confines itself before it loads moto.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import builder
from builder.adapters.host.confinement import confine
from builder.adapters.host.workspace import write_atomically
from builder.errors import FactoryError
from builder.rehearsal.addresses import find_ssh_port
from builder.rehearsal.ec2.brokered import BrokeredHosts, brokered_hosts
from builder.rehearsal.ec2.seeds import Account
from builder.rehearsal.files import Files, Settings, hold
from builder.rehearsal.gate import Key
from builder.rehearsal.proxy import Proxy
from builder.rehearsal.rules import Rules
from builder.wait import until

_IDLE_TIMEOUT_S = 60.0
_LOCK_S = 5.0  # a status query of another process takes the lock for an instant
# System files that Python, the C library and TLS read; other files in /etc cannot be read.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/dev/null", "/dev/urandom", "/etc/gai.conf", "/etc/host.conf", "/etc/hosts"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf", "/etc/passwd"),
    *("/etc/resolv.conf", "/etc/services", "/etc/pki/tls/certs", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
)


def main(arguments: list[str]) -> int:
    os.umask(0o077)  # the folder holds the key of the rehearsal
    files = Files(Path(arguments[0]))
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, lambda _number, _frame: ended.set())
    try:
        with hold(files.alive, patience_s=_LOCK_S):
            _serve(files, Settings.read(files.settings), ended)
    except FactoryError as error:
        print(f"{error.message}\n{error.details}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def _serve(files: Files, settings: Settings, ended: threading.Event) -> None:
    account = Account.from_table(settings.account)
    with (
        brokered_hosts(
            files.folder, ssh_port=find_ssh_port(), confine=lambda: _confine(files.folder)
        ) as hosts,
        ExitStack() as stack,
    ):
        hosts.sweep()  # leftovers of a killed process
        proxy = _start(stack, files, settings, account, hosts)
        ended.wait()
        _end(files, hosts, proxy, stack)


def _confine(folder: Path) -> None:
    """Confine this process to the folder and to Python's files; log what the kernel does not support."""
    started_in = str(Path.cwd())  # `python -m` adds it to the paths of modules
    modules = [path for path in sys.path if path and path != started_in]
    paths = [*_SYSTEM, sys.prefix, sys.base_prefix, *modules, *builder.__path__]
    for missing in confine(readable=map(Path, paths), writable=(folder, Path("/dev/null"))):
        print(f"the kernel has no {missing}", file=sys.stderr)


def _start(
    stack: ExitStack, files: Files, settings: Settings, account: Account, hosts: BrokeredHosts
) -> Proxy:
    from builder.rehearsal.ec2 import backends

    key = Key.random()
    cloud = stack.enter_context(
        backends.serve(
            account,
            hosts,
            settings.machines,
            folder=files.registries,
            key=key,
            services=settings.services,
            rules=settings.rules,
        )
    )
    proxy = stack.enter_context(
        Proxy(cloud.endpoint, gate=cloud.gate, journal=files.calls, authorize=backends.authorize)
    )
    refusing = stack.enter_context(socket.socket())
    refusing.bind(("127.0.0.1", 0))  # bound but not listening, so connections are refused

    proxy.controls |= {
        "GET rules": lambda *_: backends.rules().as_table(),
        "PUT rules": lambda _, table: backends.set_rules(Rules.from_table(table)),
        "GET status": lambda *_: backends.status(),
    }
    announced = {
        "endpoint": proxy.endpoint,
        "access_key": key.access,
        "secret_key": key.secret,
        "services": settings.services,
        "pid": os.getpid(),
        "session": settings.session,
        "account": account.id,
        "regions": account.regions,
        "registries": cloud.registries.hosts,
        "ssh_port": hosts.ssh_port,
        "refusing_port": refusing.getsockname()[1],
        "starts": sorted(settings.machines),
    }
    write_atomically(files.ready, json.dumps(announced, indent=2))
    return proxy


def _end(files: Files, hosts: BrokeredHosts, proxy: Proxy, stack: ExitStack) -> None:
    """Close the endpoint, wait for calls in progress, remove all containers and images of the rehearsal."""
    files.ready.unlink(missing_ok=True)
    stack.close()

    def is_idle() -> bool:
        hosts.sweep()
        return not proxy.busy

    until(is_idle, timeout_s=_IDLE_TIMEOUT_S, every_s=0.1)
    hosts.sweep()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m builder.rehearsal.serve FOLDER")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    sys.exit(main(sys.argv[1:]))

"""Start vLLM as a prefill or decode server; NIXL transfers KV caches from prefill to decode servers."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

# vLLM's names of the roles: a prefill server produces KV caches, a decode server consumes them.
ROLES = {"prefill": "kv_producer", "decode": "kv_consumer", "both": "kv_both"}
VLLM = "/opt/venv/bin/vllm"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="serve.py",
        description=__doc__,
        epilog="Other options go to `vllm serve`; see `vllm serve --help`.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="folder, or name on the hub")
    parser.add_argument("--role", choices=sorted(ROLES), default="both", help="(default: both)")
    parser.add_argument(
        "--backend",
        choices=("LIBFABRIC", "UCX"),
        default="LIBFABRIC",
        help="NIXL's transport: LIBFABRIC for EFA, UCX for other networks (default: LIBFABRIC)",
    )
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="of the API (default: 8000)")
    parser.add_argument(
        "--address", metavar="A", help="where other parts reach this one (default: the host's)"
    )
    return parser.parse_known_args(argv)


def command(options: argparse.Namespace, more: Sequence[str]) -> list[str]:
    """Return the command line of vLLM."""
    transfer = {
        "kv_connector": "NixlConnector",
        "kv_role": ROLES[options.role],
        "kv_connector_extra_config": {"backends": [options.backend]},
    }
    return [
        *(VLLM, "serve", options.model, "--port", str(options.port)),
        *("--kv-transfer-config", json.dumps(transfer), *more),
    ]


def main(argv: Sequence[str]) -> None:
    options, more = parse(argv)
    # The side channel carries descriptions of KV caches; each server on a host needs its own port.
    os.environ.setdefault("VLLM_NIXL_SIDE_CHANNEL_PORT", str(options.port + 1000))
    if options.address:
        os.environ["VLLM_NIXL_SIDE_CHANNEL_HOST"] = options.address
    os.execv(VLLM, command(options, more))


if __name__ == "__main__":
    main(sys.argv[1:])

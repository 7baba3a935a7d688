"""`python -m tests.roles COMPONENT...`: applies roles to a fresh machine in a container and checks them."""

import argparse
import json
import sys
from collections.abc import Sequence

from builder.errors import FactoryError
from tests.roles import plans
from tests.roles.bench import open_bench, open_site
from tests.roles.plans import Wanted
from tests.roles.report import say, show, show_checks


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.roles",
        description="Applies components and all they require to a fresh machine, then checks them.",
    )
    parser.add_argument("components", nargs="+", metavar="COMPONENT")
    parser.add_argument("--standins", action="store_true", help="vendors' downloads from tests/standins")
    parser.add_argument("--twice", action="store_true", help="apply a second time; that must change nothing")
    parser.add_argument("--kind", choices=("ami", "container"), default="ami")
    parser.add_argument("--system", default="debian-12")
    parser.add_argument("--stack", default="cuda-11.8-debian-12")
    parser.add_argument(
        "--set", action="append", default=[], metavar="VARIABLE=VALUE", help="value in JSON, or text"
    )
    parser.add_argument("--pin", action="append", default=[], metavar="COMPONENT=VERSION")
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the container for a look")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    pins = plans.standin_pins() if options.standins else {}
    pins |= dict(item.split("=", 1) for item in options.pin)
    wanted = Wanted(
        components=options.components,
        kind=options.kind,
        system=options.system,
        stack=options.stack,
        pins=pins,
        variables=dict(read_setting(item) for item in options.set),
    )
    loaded, target = plans.load(wanted)
    with open_site(standins=options.standins, pins=dict(loaded.stacks[target.default.stack].pins)) as site:
        plan = plans.make(wanted, site)
        with open_bench(plan, site=site, say=say, keep=options.keep) as bench:
            if options.keep:
                say(f"container {bench.container[:12]}: docker exec -it {bench.container[:12]} bash")
            first = bench.apply(plan)
            show(first, "first run")
            good = first.passed
            if good and options.twice:
                second = bench.apply(plan)
                show(second, "second run")
                for task in second.changed:
                    say(f"NOT IDEMPOTENT {task}")
                good = second.passed and not second.changed
            if first.passed and not options.no_checks:
                good &= show_checks(bench.check(plan), say)
    return 0 if good else 1


def read_setting(item: str) -> tuple[str, object]:
    name, _, value = item.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except FactoryError as error:
        sys.exit(f"error: {error.message}\n{error.details}\nhint: {error.hint}")

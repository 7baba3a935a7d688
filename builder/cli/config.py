"""`builder config`: prints the settings in force and where each value comes from."""

import argparse
from collections.abc import Sequence

from builder.app.context import add_json, add_site_name, open_context, parser, print_json, print_table
from builder.app.settings import PAGE, in_force, page


def options() -> argparse.ArgumentParser:
    found = parser(
        "config",
        "Print every setting in force and where its value comes from: the site file, an environment variable,"
        " this host's apt or pip, or a default. `builder doctor` asks the servers.",
    )
    form = found.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--write-docs", action="store_true", help=f"regenerate {PAGE}")
    add_site_name(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    context = open_context(parsed)
    if parsed.write_docs:
        (context.root / PAGE).write_text(page(), encoding="utf-8")
        print(context.root / PAGE)
        return 0
    settings = in_force(context).settings
    if parsed.json:
        print_json(
            parsed, {setting.key: {"value": setting.value, "origin": setting.origin} for setting in settings}
        )
        return 0
    rows = [(key, text, setting.origin) for setting in settings for key, text in setting.texts]
    print_table(("key", "value", "from"), rows)
    return 0

"""`builder config`: prints the settings in force and where each value comes from."""

import json
from collections.abc import Sequence

from builder.app.context import add_site_name, open_context, parser, print_table
from builder.app.settings import PAGE, in_force, page
from builder.errors import without_logins


def run(argv: Sequence[str]) -> int:
    options = parser(
        "config",
        "Print every setting in force and where its value comes from: the site file, an environment variable,"
        " this host's apt or pip, or a default. `builder doctor` asks the servers.",
    )
    options.add_argument("--json", action="store_true", help="print JSON")
    options.add_argument("--write-docs", action="store_true", help=f"regenerate {PAGE}")
    add_site_name(options)
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    if parsed.write_docs:
        (context.root / PAGE).write_text(page(), encoding="utf-8")
        print(context.root / PAGE)
        return 0
    settings = in_force(context).settings
    if parsed.json:
        table = {setting.key: {"value": setting.value, "origin": setting.origin} for setting in settings}
        print(without_logins(json.dumps(table, indent=2)))
        return 0
    rows = [(key, text, setting.origin) for setting in settings for key, text in setting.texts]
    print_table(("key", "value", "from"), rows)
    return 0

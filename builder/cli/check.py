"""`builder check REF`: a target's checks on an image that exists, whoever built it."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from builder.adapters.engine.client import Engine
from builder.app.context import open_context, parser
from builder.errors import UsageError
from builder.marks import TARGET_LABEL


def run(argv: Sequence[str]) -> int:
    options = parser("check", "Run the checks of a target on an existing image.")
    options.add_argument("image", help="what the engine calls the image")
    options.add_argument("--target", metavar="NAME", help="default: what the image's label says")
    parsed = options.parse_args(argv)
    context = open_context(parsed)
    engine = Engine()
    image = engine.inspect_image(parsed.image)
    if image is None:
        raise UsageError(f"no image '{parsed.image}' in the engine", hint=f"docker pull {parsed.image}")
    name = parsed.target or ((image["Config"] or {}).get("Labels") or {}).get(TARGET_LABEL)
    if not name:
        raise UsageError(
            f"image '{parsed.image}' does not say which target it is", hint="add --target; builder list"
        )
    plan = context.plan(name)

    from builder.adapters.checks.testinfra import ImageChecker
    from builder.adapters.host.workspace import open_run
    from builder.app.interrupts import interruptible
    from builder.app.production import clear_dead, open_screen
    from builder.events import Stream
    from builder.model import Artifact
    from builder.pipeline import check, refusal
    from builder.screen.files import RunFiles

    with ExitStack() as stack:
        stack.enter_context(interruptible())
        clear_dead(context.workspace)
        run = stack.enter_context(open_run(context.workspace, f"check-{name}"))
        events = Stream(stack.enter_context(RunFiles(run.folder)))
        events.subscribe(stack.enter_context(open_screen(as_json=False)))
        started = time.monotonic()
        events.emit("run.start", text="check", run=run.name, targets=name)
        checker = ImageChecker(
            engine_url=engine.url,
            run=run,
            root=context.root,
            events=events,
            environment=lambda: dict(os.environ),
        )
        artifact = Artifact(kind="container", target=name, reference=str(image["Id"]), key="")
        report = check(plan, artifact, checker, events)
        events.emit("run.end", ok=report.passed, seconds=time.monotonic() - started)
    for one in report.checks:
        if one.outcome == "skipped":
            print(f"skipped {one.name}: {one.message}", file=sys.stderr)
    if not report.passed:
        raise refusal(plan, report)
    print(artifact.reference)
    return 0

"""What a person reads of plays and checks."""

from collections.abc import Callable

from builder.model import Check
from tests.roles.play import Play


def say(text: str) -> None:
    print(text, flush=True)


def show(play: Play, title: str) -> None:
    say(f"\n{title}: {'passed' if play.passed else 'FAILED'} in {play.seconds:.1f} s")
    for role in play.roles.values():
        say(f"  {role.name:28} {role.seconds:6.1f} s  ok={role.ok} changed={len(role.changed)}")


def show_checks(checks: tuple[Check, ...], say: Callable[[str], None]) -> bool:
    """Says what did not pass and how many did; whether none failed and some passed."""
    counts = {
        outcome: sum(check.outcome == outcome for check in checks)
        for outcome in ("passed", "failed", "skipped")
    }
    for check in checks:
        if check.outcome != "passed":
            say(f"{check.outcome.upper()} {check.name}: {check.message}")
    say("checks: " + ", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return counts["failed"] == 0 and counts["passed"] > 0

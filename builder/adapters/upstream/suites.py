"""Whether the package archive is in the state that was locked: the signed list of each suite, by sha256.

Reads what apt itself fetched while a base is made: nothing is fetched twice or can change in between.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from builder.adapters.upstream.mirror import Mirror
from builder.errors import IntegrityError
from builder.lock import LOCK_PATH
from builder.model import Suite, System

# Run by mmdebstrap once apt has its lists, with the new root in $1. It ends a bootstrap that began from
# another state before the packages are configured; what it prints says why.
_HOOK = """\
set -eu
cd "$1/var/lib/apt/lists"
code=0
for list in *_InRelease; do
    [ -e "$list" ] || exit 1
    sum=$(sha256sum "$list" | cut -c1-64)
    echo "suite $sum $list $(sed -n 's/^Date: *//p' "$list" | head -n 1)"
    case "$list" in
{cases}    esac
done
exit "$code"
"""
_CASE = '        *_dists_{name}_InRelease) [ "$sum" = {sha256} ] || code=1 ;;\n'
_LINE = re.compile(r"suite (?P<sha256>[0-9a-f]{64}) (?P<list>\S+_InRelease) (?P<date>.*)")


def release_date(text: str) -> str:
    """The date of a suite's list as the lock writes it: 2026-07-11T10:16:37Z; "" for what is no date."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return ""


def release_url(archive: str, suite: str) -> str:
    """Where the signed list of a suite is."""
    return f"{archive.rstrip('/')}/dists/{suite}/InRelease"


@dataclass(kw_only=True)
class SuiteVerifier:
    """The suites of one bootstrap: the release must be as it was locked; with snapshots, its updates too."""

    system: System
    suites: Sequence[Suite]
    mirror: Mirror
    lists: list[re.Match[str]] = field(default_factory=list)

    @property
    def hook(self) -> str:
        """The script that prints what apt fetched, and ends the bootstrap where it must not go on."""
        fixed = (suite for suite in self.suites if self._is_fixed(suite))
        return _HOOK.format(cases="".join(_CASE.format(name=one.name, sha256=one.sha256) for one in fixed))

    def line(self, line: str) -> None:
        if match := _LINE.fullmatch(line):
            self.lists.append(match)

    def verify(self) -> str:
        """What has moved on, in one sentence; raises IntegrityError for what must not have."""
        notes = []
        for suite in self.suites:
            ending = f"_dists_{suite.name}_InRelease"
            found = next((one for one in self.lists if one["list"].endswith(ending)), None)
            if found and found["sha256"] == suite.sha256:
                continue
            now = release_date(found["date"]) if found else ""
            if self._is_fixed(suite):
                raise self._refusal(suite, found["sha256"] if found else "", now)
            notes.append(f"{suite.name} ({suite.date} → {now or 'not in the sources here'})")
        return f"the package archive has moved on since it was locked: {', '.join(notes)}" if notes else ""

    def _is_fixed(self, suite: Suite) -> bool:
        assert self.system.bootstrap is not None
        return bool(self.mirror.settings.snapshot) or suite.name == self.system.bootstrap.suite

    def _refusal(self, suite: Suite, actual: str, now: str) -> IntegrityError:
        places = (line.split() for line in self.mirror.apt_sources)
        url = next((release_url(place[1], suite.name) for place in places if place[2] == suite.name), "")
        name = f"suite {self.system.distribution} {suite.name}"
        state = f"its list is of {now}, the locked one of {suite.date}" if actual else "it has no InRelease"
        return IntegrityError(
            f"{name} is not what {LOCK_PATH} says: {state}",
            hint=f"builder lock --update {self.system.name}, then review the difference;"
            " or go back to the locked state: mirror.snapshot in site.toml",
            details=f"expected  sha256 {suite.sha256}\nactual    sha256 {actual or 'none'}\nurl       {url}",
        )

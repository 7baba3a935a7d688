"""Verify that the package archive is in the locked state: compare each suite's InRelease file by sha256.

Reads the files that apt fetched during the bootstrap, so that no file is downloaded twice or changes in
between.
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

# Hook that mmdebstrap runs with the new root in $1 once apt has fetched its lists. The hook prints the
# digests of the lists. If a list is not in the locked state, the hook fails the bootstrap before packages are
# configured.
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
    """Return the date of an InRelease file in the lock file's format, 2026-07-11T10:16:37Z; "" if invalid."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return ""


def release_url(archive: str, suite: str) -> str:
    """Return the URL of a suite's InRelease file."""
    return f"{archive.rstrip('/')}/dists/{suite}/InRelease"


@dataclass(kw_only=True)
class SuiteVerifier:
    """Verifies the package suites of a bootstrap.

    The release suite must match the lock. The update suites must match it too if snapshots are used;
    otherwise they may be newer but not older, because older lists lack fixes.
    """

    system: System
    suites: Sequence[Suite]
    mirror: Mirror
    lists: list[re.Match[str]] = field(default_factory=list)

    @property
    def hook(self) -> str:
        """Script that prints the digests of apt's lists and fails if the release suite has changed."""
        fixed = (suite for suite in self.suites if self._is_fixed(suite))
        return _HOOK.format(
            cases="".join(_CASE.format(name=suite.name, sha256=suite.sha256) for suite in fixed)
        )

    def line(self, line: str) -> None:
        if match := _LINE.fullmatch(line):
            self.lists.append(match)

    def verify(self) -> str:
        """Return a note on newer updates, "" if none; raise IntegrityError for any other difference."""
        notes = []
        for suite in self.suites:
            ending = f"_dists_{suite.name}_InRelease"
            found = next((match for match in self.lists if match["list"].endswith(ending)), None)
            if found and found["sha256"] == suite.sha256:
                continue
            now = release_date(found["date"]) if found else ""
            if self._is_fixed(suite) or (found and now < suite.date):
                raise self._refusal(suite, found["sha256"] if found else "", now)
            notes.append(f"{suite.name} ({suite.date} → {now or 'not in the sources'})")
        if not notes:
            return ""
        changes = ", ".join(notes)
        again = f"builder lock --update {self.system.name}"
        return f"the package archive has changed since it was locked: {changes}; to lock its state: {again}"

    def _is_fixed(self, suite: Suite) -> bool:
        assert self.system.bootstrap is not None
        return bool(self.mirror.settings.snapshot) or suite.name == self.system.bootstrap.suite

    def _refusal(self, suite: Suite, actual: str, now: str) -> IntegrityError:
        sources = (re.sub(r"\[.*?\] ", "", line).split() for line in self.mirror.apt_sources)
        url = next((release_url(uri, name) for _, uri, name, *_ in sources if name == suite.name), "")
        subject = f"suite {self.system.distribution} {suite.name}"
        state = f"InRelease of {now}, but the lock has {suite.date}" if actual else "no InRelease file"
        return IntegrityError(
            f"{subject} differs from {LOCK_PATH}: {state}",
            hint=f"builder lock --update '{subject}', then review the difference;"
            " or configure mirror.snapshot in site.toml to build from the locked state",
            details=f"expected  sha256 {suite.sha256}\nactual    sha256 {actual or 'none'}\nurl       {url}",
        )

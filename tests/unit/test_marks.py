"""Only builder/marks.py contains the names of AWS tags and container labels."""

import re
from pathlib import Path

from builder import marks

_VALUES = {value for name, value in vars(marks).items() if name.endswith(("_TAG", "_LABEL"))}


def test_names_of_tags_and_labels_are_unique() -> None:
    names = [name for name in vars(marks) if name.endswith(("_TAG", "_LABEL"))]
    assert len(_VALUES) == len(names) > 15


def test_no_other_module_contains_the_name_of_a_tag_or_label(root: Path) -> None:
    spelled = re.compile("|".join(f'"{re.escape(value)}"' for value in _VALUES))
    found = [
        f"{path.relative_to(root)}: {match[0]}"
        for path in (root / "builder").rglob("*.py")
        if path.name != "marks.py"
        for match in spelled.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []

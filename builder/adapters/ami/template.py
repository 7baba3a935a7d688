"""Render the Packer template for the plugins in use: one source text, with or without newer blocks."""

from pathlib import Path

# Line of the template that is replaced; a comment, so that Packer 1.6 reads the template as it is.
_MARK = "  # Current plugins only: current.hcl\n"
_ADDITION = "current.hcl"


def render(template: Path, folder: Path) -> Path:
    """Write the template for current plugins of Packer to `folder`; return the folder."""
    addition = (template / _ADDITION).read_text(encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for path in sorted(template.glob("*.pkr.hcl")):
        text = path.read_text(encoding="utf-8").replace(_MARK, addition)
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder

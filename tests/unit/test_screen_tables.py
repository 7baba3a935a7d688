"""Tables and facts: one line per row, no cut names, tab-separated lines outside of terminals."""

import pytest

from builder.screen.tables import facts, table
from builder.screen.text import UNLIMITED, Look, cells

PIPE = Look(width=UNLIMITED)
HEADERS = ["target", "layers", "size", "flavours", "summary"]
ROWS = [
    [
        "cpu-ddp",
        "6",
        "1.24 GB",
        ("debian-12", "ubuntu-24.04", "amazon-2023"),
        "Training on CPU, PyTorch over gloo",
    ],
    ["pytorch-fsdp", "12", "61 MB", ("debian-12",), "Llama-style pre-training"],
]


def test_terminal_shortens_prose_and_lists_of_names() -> None:
    assert table(HEADERS, ROWS, look=Look(width=70, terminal=True)) == (
        "target        layers     size  flavours            summary\n"
        "cpu-ddp            6  1.24 GB  debian-12 +2        Training on CPU, P…\n"
        "pytorch-fsdp      12    61 MB  debian-12           Llama-style pre-tr…"
    )


@pytest.mark.parametrize("width", [10, 50, 80, 200])
def test_no_name_is_cut_and_every_row_is_one_line(width: int) -> None:
    text = table(HEADERS, ROWS, look=Look(width=width, terminal=True))
    lines = text.splitlines()
    assert len(lines) == 3
    assert [line.split()[0] for line in lines] == ["target", "cpu-ddp", "pytorch-fsdp"]
    if width >= 80:
        assert max(map(cells, lines)) <= width


def test_pipe_gets_whole_cells_separated_by_tabs() -> None:
    assert table(HEADERS, ROWS, look=PIPE).splitlines()[1] == (
        "cpu-ddp\t6\t1.24 GB\tdebian-12, ubuntu-24.04, amazon-2023\tTraining on CPU, PyTorch over gloo"
    )


def test_cell_with_line_ends_tabs_and_control_sequences_is_one_cell() -> None:
    row = ["a", "one\ntwo\tthree\x1b]0;a title\x07 \x1b[31mfour\r\n"]
    assert table(["name", "summary"], [row], look=PIPE) == "name\tsummary\na\tone two three four"


def test_huge_prose_is_cut_in_one_step() -> None:
    text = table(["name", "summary"], [["a", "x" * 3_000_000]], look=Look(width=80, terminal=True))
    assert [cells(line) for line in text.splitlines()] == [13, 80]


def test_table_without_rows_shows_only_its_header() -> None:
    assert table(["A", "B"], [], look=Look(terminal=True)) == "A  B"
    assert table(["A", "B"], [], look=PIPE) == "A\tB"


def test_versions_are_not_right_aligned_and_cells_may_be_empty() -> None:
    rows = [["a", "4.1.4-3"], ["b", ""]]
    assert table(["N", "VERSION"], rows, look=Look(terminal=True)) == "N  VERSION\na  4.1.4-3\nb"


def test_facts_continue_in_indented_lines_at_a_terminal_only() -> None:
    named = [("kind", "ami"), ("parameters", ("/image-factory/a/latest/ami-id", "/image-factory/b"))]
    assert facts(named, look=Look(width=40, terminal=True)) == (
        "kind        ami\nparameters  /image-factory/a/latest/ami-id,\n            /image-factory/b"
    )
    assert facts(named, look=PIPE) == (
        "kind\tami\nparameters\t/image-factory/a/latest/ami-id, /image-factory/b"
    )

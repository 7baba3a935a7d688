"""Live view of a run: its lines, and their output by the package rich."""

import io

import pytest
from rich.console import Console

from builder.screen.live import LiveTree, failures, tree
from builder.screen.steps import Board
from builder.screen.text import Look, cells
from builder.wait import until
from tests.unit.test_screen_attempt import START_S, a_run, event

TREE = """\
builder build --target cpu-ddp                                        1 min 10 s
cpu-ddp
  ● base                           121 MB  reused · in this engine
  ✔ libfabric, openmpi 1 min 06 s   61 MB  built · changed: role
  ✘ python_env              2.0 s          failed · pip refused torch
shared
  ⠋ elsewhere               3.5 s          something unannounced
1 running · 3 done
! packages come from the mirror of this host"""


def a_board() -> Board:
    board = Board()
    for each in a_run():
        board.read(each)
    return board


def shown(
    board: Board, *, width: int = 80, height: int | None = None, now_s: float = START_S + 70
) -> list[str]:
    lines = tree(board, now_s=now_s, look=Look(), width=width, height=height)
    return ["".join(text for text, _ in line).rstrip() for line in lines]


def test_live_view_groups_rows_by_target() -> None:
    assert "\n".join(shown(a_board())) == TREE


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    board = a_board()
    board.read(event("step.start", 70, "x" * 300, "y" * 300, target="z" * 300))
    board.read(event("step.task", 70, "x" * 300, "t" * 300))
    lines = tree(board, now_s=START_S + 71, look=Look(), width=width)
    assert max(cells("".join(text for text, _ in line)) for line in lines) <= width


def test_live_view_of_a_single_target_has_no_heading() -> None:
    board = Board()
    board.read(event("step.start", 0, "s", "base", target="cpu-ddp"))
    assert shown(board, now_s=START_S + 1.25) == [
        " " * 74 + " 1.2 s",
        "⠋ base      1.2 s",
        "1 running · 0 done",
    ]


def test_running_rows_stay_visible_if_not_all_rows_fit() -> None:
    board = Board()
    for number in range(60):
        board.read(event("step.start", number, f"s{number}", f"layer-{number:02}", target=f"t{number // 20}"))
        if number % 20:
            board.read(event("step.end", number, f"s{number}", outcome="built", seconds=1.0))
    lines = shown(board, height=12)
    assert len(lines) <= 12
    assert all(any(f"layer-{number}" in line for line in lines) for number in ("00", "20", "40"))
    assert any("layer-59" in line for line in lines)
    assert lines[-1].startswith("3 running · 57 done · ")
    assert len(shown(board)) == 1 + 3 + 60 + 1


def test_live_view_has_a_line_on_a_terminal_of_one_line() -> None:
    assert shown(a_board(), height=1)


def test_failures_end_with_the_last_lines_of_the_log() -> None:
    lines = ["".join(text for text, _ in line) for line in failures(a_board())]
    assert lines == ["", "cpu-ddp: python_env: pip refused torch", "  │ ERROR: hashes do not match"]


def drawn(*, width: int, colour: bool) -> str:
    stream = io.StringIO()
    screen = LiveTree(stream, {}, clock=lambda: START_S + 70)
    for each in a_run():
        screen(each)
    console = Console(
        file=stream, width=width, height=24, force_terminal=True, no_color=not colour, color_system="standard"
    )
    console.print(screen)
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_rich_draws_the_lines_of_the_live_view_unchanged(width: int) -> None:
    stream = io.StringIO()
    screen = LiveTree(stream, {}, clock=lambda: START_S + 70)
    for each in a_run():
        screen(each)
    Console(file=stream, width=width, height=24).print(screen)
    plain = Look(unicode=False)
    lines = tree(a_board(), now_s=START_S + 70, look=plain, width=width)
    expected = [plain.plain("".join(text for text, _ in line)).rstrip() for line in lines]
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == expected


def test_no_color_disables_colours() -> None:
    assert "\x1b[1;31m" in drawn(width=80, colour=True)
    assert "\x1b[1;31m" not in drawn(width=80, colour=False)


def test_rich_markup_in_names_is_not_interpreted() -> None:
    stream = io.StringIO()
    screen = LiveTree(stream, {}, clock=lambda: START_S)
    screen(event("step.start", 0, "s", "[bold]x[/bold] [/nonsense]", target="t"))
    Console(file=stream, width=80, height=24).print(screen)
    assert "[bold]x[/bold] [/non" in stream.getvalue()


def test_live_view_of_a_short_run_prints_only_its_failures() -> None:
    stream = io.StringIO()
    with LiveTree(stream, {}, delay_s=3600) as screen:
        for each in a_run():
            screen(each)
    assert stream.getvalue().splitlines() == [
        "",
        "cpu-ddp: python_env: pip refused torch",
        "  | ERROR: hashes do not match",
    ]


def test_interrupt_marks_running_rows_as_stopped_and_restores_the_cursor() -> None:
    stream = io.StringIO()
    screen = LiveTree(stream, {}, delay_s=0, clock=lambda: START_S + 9)

    def run() -> None:
        with screen:
            assert until(lambda: "\x1b[?25l" in stream.getvalue(), timeout_s=60, every_s=0.01)
            for each in a_run()[:5]:
                screen(each)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "stopped" in text
    screen.close()
    assert stream.getvalue() == text

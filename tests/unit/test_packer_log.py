"""Parsing of Packer's machine-readable output: a recorded build, and rare kinds of lines."""

import pytest

from builder.adapters.ami.packer_log import (
    Event,
    LogLine,
    Message,
    PackerLog,
    PlayLine,
    Started,
    Task,
    parse,
)

# Packer 1.6.6 with -machine-readable, with an instance that SSH cannot reach; times and ids are as recorded.
NO_SSH = r"""
1796013577,,ui,say,==> ami.amazon-ebs.image: Launching a source AWS instance...
1796013577,,ui,say,==> ami.amazon-ebs.image: Adding tags to source instance
1796013577,,ui,message,    ami.amazon-ebs.image: Adding tag: "factory:run": "run-1"
1796013577,,ui,message,    ami.amazon-ebs.image: Instance ID: i-f92345aa6c1dc5b6c
1796013577,,ui,say,==> ami.amazon-ebs.image: Waiting for instance (i-f92345aa6c1dc5b6c) to become ready...
1796013577,,ui,say,==> ami.amazon-ebs.image: Waiting for SSH to become available...
1796013582,,ui,error,==> ami.amazon-ebs.image: Timeout waiting for SSH.
1796013582,,ui,say,==> ami.amazon-ebs.image: Terminating the source AWS instance...
1796013582,,ui,say,==> ami.amazon-ebs.image: No volumes to clean up%!(PACKER_COMMA) skipping
1796013582,,ui,error,Build 'ami.amazon-ebs.image' errored after 5 seconds: Timeout waiting for SSH.
1796013582,,ui,say,\n==> Wait completed after 5 seconds 200 milliseconds
1796013582,,error-count,1
1796013582,ami.amazon-ebs.image,error,Timeout waiting for SSH.
""".strip().splitlines()


def read(*lines: str) -> tuple[PackerLog, list[Event]]:
    log = PackerLog()
    return log, [event for line in lines for event in log.read(line)]


def test_recorded_build_starts_one_instance() -> None:
    _, events = read(*NO_SSH)
    assert [event for event in events if isinstance(event, Started)] == [Started("i-f92345aa6c1dc5b6c")]


def test_recorded_build_reports_its_steps() -> None:
    _, events = read(*NO_SSH)
    assert [event.text for event in events if isinstance(event, Task)] == [
        "Launching a source AWS instance...",
        "Adding tags to source instance",
        "Waiting for instance (i-f92345aa6c1dc5b6c) to become ready...",
        "Waiting for SSH to become available...",
        "Terminating the source AWS instance...",
        "No volumes to clean up, skipping",
        "==> Wait completed after 5 seconds 200 milliseconds",
    ]


def test_log_of_the_recorded_build_has_its_first_error_and_last_lines() -> None:
    log, events = read(*NO_SSH)
    assert log.error == "Timeout waiting for SSH."
    assert log.tail[-3:] == ["==> Wait completed after 5 seconds 200 milliseconds", "1", log.error]
    assert [event.text for event in events if isinstance(event, LogLine)] == log.tail


def test_packer_log_keeps_only_the_last_lines() -> None:
    log, _ = read(*(f"line {number}" for number in range(100)))
    assert log.tail == [f"line {number}" for number in range(60, 100)]
    assert log.error == ""


@pytest.mark.parametrize(
    ("line", "events"),
    [
        (
            '1,,ui,message,    ami.amazon-ebs.image: {"event": "task"%!(PACKER_COMMA) "task": "Install"}',
            [PlayLine('{"event": "task", "task": "Install"}')],
        ),
        (r'1,,ui,message,    amazon-ebs.image: {"event": "a\nb"}', [PlayLine(r'{"event": "a\nb"}')]),
        (
            r"1,,ui,say,==> amazon-ebs.image: one\r\n==> amazon-ebs.image: two",
            [LogLine("one"), Task("one"), LogLine("two"), Task("two")],
        ),
        ("1,,ui,message,    amazon-ebs.image: hello", [LogLine("hello")]),
        ("1,,ui,say,", [LogLine("")]),
        ("panic: runtime error", [LogLine("panic: runtime error")]),
        ("1,amazon-ebs.image,artifact,0,id,us-east-1:ami-1", [LogLine("0,id,us-east-1:ami-1")]),
        (
            "1,,ui,say,==> amazon-ebs.image: Waiting for instance (i-0123456789) to become ready...",
            [
                LogLine("Waiting for instance (i-0123456789) to become ready..."),
                Task("Waiting for instance (i-0123456789) to become ready..."),
                Started("i-0123456789"),
            ],
        ),
        ("", [LogLine("")]),
    ],
)
def test_line_of_packer_becomes_events(line: str, events: list[Event]) -> None:
    assert read(line)[1] == events


FORGED = "Waiting for instance (i-0bad0bad0bad0bad0) to become ready..."


@pytest.mark.parametrize(
    "line",
    [
        f"1,,ui,message,    ami.amazon-ebs.image: {FORGED}",
        f"1,,ui,error,==> ami.amazon-ebs.image: {FORGED}",
        "1,,ui,message,    ami.amazon-ebs.image: Instance ID: i-0bad0bad0bad0bad0",
        "1,,ui,say,==> ami.amazon-ebs.image: Instance ID: i-0bad0bad0bad0bad0",
        f"1,,ui,say,==> ami.amazon-ebs.image: a mirror answered: {FORGED}",
        f"1,,ui,say,==> ami.amazon-ebs.image: {FORGED} and more",
        f"1,ami.amazon-ebs.image,artifact,0,say,{FORGED}",
        FORGED,
    ],
)
def test_forwarded_output_never_names_the_instance(line: str) -> None:
    assert not [event for event in read(line)[1] if isinstance(event, Started)]


def test_a_spot_instance_is_recognized_by_its_instance_id_line() -> None:
    log = PackerLog()
    lines = (
        "1,,ui,say,==> ami.amazon-ebs.image: Launching a spot AWS instance...",
        "1,,ui,message,    ami.amazon-ebs.image: Instance ID: i-0aaaaaaaaaaaaaaaa",
        "1,,ui,message,    ami.amazon-ebs.image: Instance ID: i-0bad0bad0bad0bad0",
    )
    events = [event for line in lines for event in log.read(line)]
    assert [event for event in events if isinstance(event, Started)] == [Started("i-0aaaaaaaaaaaaaaaa")]


def test_output_of_the_instance_cannot_name_another_instance() -> None:
    """The first instance id counts: Packer prints it before all output of the instance."""
    _, events = read(*NO_SSH, f"1,,ui,say,==> ami.amazon-ebs.image: {FORGED}")
    assert [event for event in events if isinstance(event, Started)] == [Started("i-f92345aa6c1dc5b6c")]


@pytest.mark.parametrize("kind", ["1,,ui,error,", "", "1,amazon-ebs.image,artifact,"])
def test_only_forwarded_output_contains_events_of_the_plays(kind: str) -> None:
    line = f"""{kind}{{"event": "failed"}}"""
    assert not [event for event in read(line)[1] if isinstance(event, PlayLine)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1700000000,,ui,say,==> a: one%!(PACKER_COMMA) two", Message(kind="say", text="==> a: one, two")),
        ("1700000000,,ui,error,it broke", Message(kind="error", text="it broke")),
        ("1700000000,amazon-ebs.image,artifact,0,end", Message(kind="artifact", text="0,end")),
        (
            "a line of its own, with commas, and more",
            Message(kind="log", text="a line of its own, with commas, and more"),
        ),
    ],
)
def test_parse_separates_kind_and_text(line: str, message: Message) -> None:
    assert parse(line) == message

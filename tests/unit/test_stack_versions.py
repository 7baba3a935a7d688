"""Versions: parsing, refusal of invalid texts, and an order that agrees with the order of releases."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.stack.versions import compare, parse
from tests.support.repository import knowledge_of

_NUMBERS = st.lists(st.integers(0, 700), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
TEXTS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "v"]),
        _NUMBERS,
        st.sampled_from(["", "", "", "b0", "rc1", ".dev3"]),
        st.sampled_from(["", "", "amzn1.0", "amzn5.0", ".amzn0"]),
        st.sampled_from(["", "", "-1", "-11", "-3.1"]),
        st.sampled_from(["", "", "+b1", "+cuda12.9", "+cpu"]),
    ),
)


@pytest.mark.parametrize(
    "text",
    [
        *("2.29.3-1", "2.29.7-1+cuda13.0", "1.18.0amzn3.0", "60.amzn0", "v2.17.9", "595.91.07", "13.0"),
        *("1.13.2-aws", "4.1.4-3+b1", "2.0.0.2.0.1b0", "2.13.0+cpu", "1:2.3-4", "5.0.9amzn1", "12"),
        *("6.1.0-50-amd64", "6.1.0-50-cloud-arm64", "6.8.0-1031-aws", "6.12.80-105.155.amzn2023.x86_64"),
    ],
)
def test_parses_versions_of_vendors(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "latest",
        "1.2 ",
        "2.13.x",
        "1..2",
        "1.2.",
        "-1",
        "cuda",
        "1.2-",
        "1.2+",
        "½",
        "٣.1",
        "9" * 100,
        "1\n",
    ],
)
def test_refuses_a_text_that_is_not_a_version(text: str) -> None:
    with pytest.raises(ValueError, match="is not a version"):
        parse(text)


@given(st.lists(TEXTS, min_size=3, max_size=3))
def test_the_order_of_versions_is_total(texts: list[str]) -> None:
    a, b, c = map(parse, texts)
    assert (a < b) + (a == b) + (a > b) == 1
    assert (a <= b) == (not b < a)
    if a <= b <= c:
        assert a <= c
    if a == b:
        assert hash(a) == hash(b)
        assert (a < c) == (b < c)


@given(TEXTS, TEXTS)
def test_opposite_comparison_operators_give_opposite_results(left: str, right: str) -> None:
    a, b = parse(left), parse(right)
    assert compare(a, "==", b) != compare(a, "!=", b)
    assert compare(a, "<", b) != compare(a, ">=", b)
    assert compare(a, ">", b) != compare(a, "<=", b)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("4.1.7", "4.1.7-2"),
        ("5.0.9amzn1", "5.0.9-11"),
        ("54.0", "54.amzn0"),
        ("2.1.0", "2.1.0amzn2.0"),
        ("1.18.1amzn1.0", "1.18.2amzn1.0"),
        ("570.86.15", "570.124.06"),
        ("2.14.0rc1", "2.14.0"),
        ("4.1.4-3", "4.1.4-3+b1"),
        ("9.10.2.21", "9.19.0.56"),
    ],
)
def test_an_older_version_is_less(older: str, newer: str) -> None:
    assert parse(older) < parse(newer)


@pytest.mark.parametrize(
    ("left", "operator", "right", "expected"),
    [
        ("2.29.3-1", "==", "2.29.3", True),
        ("2.29.3", "==", "2.29.3-1", True),
        ("4.1.7-1", "==", "4.1.7-2", False),
        ("1.22.0amzn3.0", ">=", "1.22", True),
        ("1.22.0amzn3.0", ">=", "1.22.0amzn4.0", False),
        ("1.22.0", ">=", "1.22.0amzn4.0", False),
        ("2.4.0amzn5.0", "<=", "2.4.0", True),
        ("13.0", "==", "13.0.0", True),
    ],
)
def test_a_version_condition_without_a_build_number_matches_every_build_number(
    left: str, operator: str, right: str, expected: bool
) -> None:
    assert compare(parse(left), operator, parse(right)) is expected


def test_releases_in_the_catalog_are_sorted_newest_first(root: Path) -> None:
    for fact, releases in knowledge_of(root).releases.items():
        assert all(newer.version > older.version for newer, older in pairwise(releases)), fact


def test_newer_efa_installers_never_contain_older_components(root: Path) -> None:
    """Compare our order of versions with an independent order: that of the installer's releases."""
    newest_first = knowledge_of(root).releases["efa"]
    for part in {name for release in newest_first for name in release.contents}:
        row = [release.contents[part] for release in newest_first if part in release.contents]
        assert all(newer >= older for newer, older in pairwise(row)), part

"""Classes with the decorator values.dataclass behave like frozen dataclasses of the standard library."""

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import field
from typing import Any

import pytest

from builder import values

Decorator = Callable[..., Any]


def point(decorator: Decorator, **more: bool) -> Any:
    @decorator(frozen=True, slots=True, **more)
    class Point:
        x: int
        y: int = 2
        marks: tuple[str, ...] = ()
        note: str = field(default="", compare=False)
        hidden: list[int] = field(default_factory=list, repr=False, hash=False)

    return Point


def outcome(action: Callable[[], object]) -> object:
    """Return the result of an action, or the class of its error."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 (any error is compared)
        return type(error)


ACTIONS: dict[str, Callable[[Any], object]] = {
    "defaults": lambda cls: repr(cls(x=1)),
    "values": lambda cls: dataclasses.asdict(cls(x=1, y=5, marks=("a",), note="n", hidden=[1])),
    "positions": lambda cls: dataclasses.astuple(cls(1, 3)),
    "replace": lambda cls: repr(dataclasses.replace(cls(x=1), y=7)),
    "too few": lambda cls: cls(),
    "too many": lambda cls: cls(1, 2, (), "", [], 6),
    "twice": lambda cls: cls(1, x=2),
    "unknown": lambda cls: cls(x=1, z=2),
    "equal": lambda cls: (cls(x=1) == cls(x=1, note="other"), cls(x=1) == cls(x=2), cls(x=1) == (1, 2)),
    "not equal": lambda cls: (cls(x=1) != cls(x=1), cls(x=1) != cls(x=1, hidden=[3])),
    "hash": lambda cls: hash(cls(x=1)) == hash(cls(x=1, note="other", hidden=[9])),
    "no hash": lambda cls: hash(cls(x=[])),
    "own list": lambda cls: cls(x=1).hidden is cls(x=1).hidden,
    "assignment": lambda cls: setattr(cls(x=1), "x", 3),
    "deletion": lambda cls: delattr(cls(x=1), "x"),
    "fields": lambda cls: [(entry.name, entry.kw_only) for entry in dataclasses.fields(cls)],
    "match": lambda cls: cls.__match_args__,
    "slots": lambda cls: cls.__slots__,
    "order": lambda cls: cls(x=1) < cls(x=2),
    "copy": lambda cls: repr(copy.deepcopy(cls(x=1, hidden=[4]))),
}


@pytest.mark.parametrize("more", [{}, {"kw_only": True}, {"order": True}], ids=str)
@pytest.mark.parametrize("name", ACTIONS)
def test_a_value_class_behaves_like_a_frozen_dataclass(name: str, more: dict[str, bool]) -> None:
    ours, theirs = (point(decorator, **more) for decorator in (values.dataclass, dataclasses.dataclass))
    found = outcome(lambda: ACTIONS[name](ours))
    expected = outcome(lambda: ACTIONS[name](theirs))
    assert found == expected


def test_post_init_of_a_value_class_is_called() -> None:
    @values.dataclass(frozen=True)
    class Positive:
        x: int

        def __post_init__(self) -> None:
            if self.x <= 0:
                raise ValueError(self.x)

    with pytest.raises(ValueError, match="-1"):
        Positive(-1)


@values.dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    name: str


def test_an_instance_of_a_value_class_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Stored(name="x"))) == Stored(name="x")

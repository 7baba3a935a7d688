"""Frozen dataclasses that are cheap to define, because all classes share one set of methods.

Compiling methods for each class took a fifth of the time of `builder list`. A class behaves like one of
`dataclasses.dataclass`, which type checkers see and which defines classes with other options.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen=False, kw_only=False, slots=False, **more):
        if not frozen or more:
            return dataclasses.dataclass(frozen=frozen, kw_only=kw_only, slots=slots, **more)

        def decorate(cls):
            if hasattr(cls, "__post_init__"):
                return dataclasses.dataclass(frozen=True, kw_only=kw_only, slots=slots)(cls)
            cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise dataclass() writes the signature there
            made = dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=kw_only, slots=slots)(cls)
            fields = dataclasses.fields(made)
            made.__values__ = (
                tuple(field.name for field in fields if not field.kw_only),
                {field.name: (field.default, field.default_factory) for field in fields},
                tuple(field.name for field in fields if field.compare),
                tuple(field.name for field in fields if field.compare and field.hash is not False),
                tuple(field.name for field in fields if field.repr),
            )
            for name, method in _METHODS.items():
                setattr(made, name, method)
            return made

        return decorate


def _init(self: Any, /, *values: object, **named: object) -> None:
    positional, fields, *_ = type(self).__values__
    if len(values) > len(positional) or not named.keys().isdisjoint(positional[: len(values)]):
        raise TypeError(f"{type(self).__name__}() got too many arguments")
    named.update(zip(positional, values, strict=False))
    for name, (default, factory) in fields.items():
        if name in named:
            value = named.pop(name)
        elif default is not dataclasses.MISSING:
            value = default
        elif factory is not dataclasses.MISSING:
            value = factory()
        else:
            raise TypeError(f"{type(self).__name__}() needs '{name}'")
        object.__setattr__(self, name, value)
    if named:
        raise TypeError(f"{type(self).__name__}() has no '{next(iter(named))}'")


def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in type(self).__values__[4])
    return f"{type(self).__qualname__}({shown})"


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in type(self).__values__[2])


def _hash(self: Any) -> int:
    return hash(tuple(getattr(self, name) for name in type(self).__values__[3]))


def _setattr(_self: Any, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field '{name}'")


def _delattr(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field '{name}'")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in type(self).__values__[1]]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(type(self).__values__[1], state, strict=True):
        object.__setattr__(self, name, value)


_METHODS = {
    "__init__": _init,
    "__repr__": _repr,
    "__eq__": _eq,
    "__hash__": _hash,
    "__setattr__": _setattr,
    "__delattr__": _delattr,
    "__getstate__": _getstate,
    "__setstate__": _setstate,
}

"""Evaluates IAM policies: actions, resources, conditions and policy variables, as AWS documents them.

Knows the operators that `builder iam` prints, and refuses all others: an unknown condition operator is an
error, never true.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from builder.errors import UsageError

ALLOWED, DENIED, IMPLICITLY_DENIED = "allowed", "explicit deny", "implicit deny"
_KNOWN = frozenset(("Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"))
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_LITERALS = ("*", "?", "$")  # ${*}, ${?} and ${$} stand for the characters themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Authorization request: an action on one resource, with the condition keys that AWS provides for it."""

    action: str  # service:Action
    resource: str = "*"  # ARN; "*" for actions without resources
    context: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> str | None:
        """Return the value of a condition key, whose name is not case-sensitive; None if it is absent."""
        return next((found for name, found in self.context.items() if name.lower() == key.lower()), None)


def evaluate(policies: Iterable[Mapping[str, Any]], request: Request) -> str:
    """Return the outcome of a request: an explicit deny wins over any allow."""
    outcome = IMPLICITLY_DENIED
    for policy in policies:
        for statement in _list(policy["Statement"]):
            if not _applies(statement, request):
                continue
            if statement["Effect"] == "Deny":
                return DENIED
            outcome = ALLOWED
    return outcome


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    if unknown := sorted(set(statement) - _KNOWN):
        raise _unsupported(f"element {unknown[0]!r}")
    if statement["Effect"] not in ("Allow", "Deny"):
        raise _unsupported(f"effect {statement['Effect']!r}")
    conditions = [
        _holds(operator, key, _list(values), request)
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    ]
    return (
        _is_listed(statement, "Action", request)
        and _is_listed(statement, "Resource", request)
        and all(conditions)
    )


def _is_listed(statement: Mapping[str, Any], element: str, request: Request) -> bool:
    """True if a request matches the element, such as Action, or does not match its negation, NotAction."""
    if element in statement:
        return any(_fits(element, pattern, request) for pattern in _list(statement[element]))
    return not any(_fits(element, pattern, request) for pattern in _list(statement[f"Not{element}"]))


def _fits(element: str, pattern: str, request: Request) -> bool:
    if element == "Action":
        return _matches(pattern.lower(), request.action.lower(), request)
    return pattern == "*" or _arn_matches(pattern, request)


def _arn_matches(pattern: str, request: Request) -> bool:
    """Compare ARNs part by part: a wildcard does not match across the first five colons."""
    wanted, found = pattern.split(":", 5), request.resource.split(":", 5)
    return len(wanted) == len(found) == 6 and all(
        _matches(part, value, request) for part, value in zip(wanted, found, strict=True)
    )


def _holds(operator: str, key: str, values: list[str], request: Request) -> bool:
    """True if a condition is met; a condition on a key that the request lacks is not met."""
    compare = _OPERATORS.get(operator)
    if compare is None:
        raise _unsupported(f"condition operator {operator!r}")
    found = request.value(key)
    return found is not None and any(compare(value, found, request) for value in values)


def _equals(pattern: str, value: str, request: Request) -> bool:
    """Compare a text with a pattern without wildcards, after replacing the pattern's variables."""
    return _text(pattern, request) == value


def _matches(pattern: str, value: str, request: Request) -> bool:
    expression = _expression(pattern, request)
    return expression is not None and bool(_compiled(expression).fullmatch(value))


_OPERATORS = {"StringEquals": _equals, "StringLike": _matches}


def _expression(pattern: str, request: Request) -> str | None:
    """Return a regular expression for a pattern; None if a variable has no value."""
    found, end = "", 0
    for match in _VARIABLE.finditer(pattern):
        value = _value(match[1], request)
        if value is None:
            return None
        found += _wildcards(pattern[end : match.start()]) + re.escape(value)
        end = match.end()
    return found + _wildcards(pattern[end:])


def _text(pattern: str, request: Request) -> str | None:
    """Return a pattern with its variables replaced; None if a variable has no value."""
    values = {match[1]: _value(match[1], request) for match in _VARIABLE.finditer(pattern)}
    if None in values.values():
        return None
    return _VARIABLE.sub(lambda match: str(values[match[1]]), pattern)


def _value(variable: str, request: Request) -> str | None:
    return variable if variable in _LITERALS else request.value(variable)


def _wildcards(text: str) -> str:
    return re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.DOTALL)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _unsupported(what: str) -> UsageError:
    return UsageError(
        f"IAM policy: {what} cannot be evaluated in a rehearsal",
        hint=f"use one of the operators {', '.join(_OPERATORS)}",
    )

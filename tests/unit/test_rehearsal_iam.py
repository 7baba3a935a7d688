"""The rehearsal's IAM policy evaluator follows the rules of AWS and refuses unknown parts of a policy."""

from typing import Any

import pytest

from builder.errors import UsageError
from builder.rehearsal.iam import ALLOWED, DENIED, IMPLICITLY_DENIED, Request, evaluate

IMAGE = "arn:aws:ec2:us-east-1::image/ami-1"
INSTANCE = "arn:aws:ec2:us-east-1:123456789012:instance/i-1"


def allow(action: Any = "ec2:*", resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def when(operator: str, key: str, value: Any) -> dict[str, Any]:
    return allow(Condition={operator: {key: value}})


def outcome(
    *statements: dict[str, Any], action: str = "ec2:CreateTags", resource: str = IMAGE, **context: str
) -> str:
    request = Request(action=action, resource=resource, context=context)
    return evaluate([{"Version": "2012-10-17", "Statement": list(statements)}], request)


def test_nothing_is_allowed_by_default_and_a_deny_wins() -> None:
    deny = {"Effect": "Deny", "Action": "ec2:CreateTags", "Resource": "*"}
    assert outcome() == IMPLICITLY_DENIED
    assert outcome(allow()) == ALLOWED
    assert outcome(allow(), deny) == outcome(deny, allow()) == DENIED
    assert outcome(allow(), deny, action="ec2:RunInstances") == ALLOWED


@pytest.mark.parametrize(
    ("pattern", "action", "expected"),
    [
        ("ec2:CreateTags", "ec2:CreateTags", True),
        ("EC2:createtags", "ec2:CreateTags", True),
        ("ec2:Create*", "ec2:CreateTags", True),
        ("ec2:CreateTag?", "ec2:CreateTags", True),
        ("ec2:CreateTag", "ec2:CreateTags", False),
        ("*", "ec2:CreateTags", True),
        ("s3:*", "ec2:CreateTags", False),
        (["s3:*", "ec2:*"], "ec2:CreateTags", True),
        ("ec2:Create.ags", "ec2:CreateTags", False),
    ],
)
def test_action_patterns_ignore_case_and_have_wildcards(pattern: Any, action: str, expected: bool) -> None:
    assert (outcome(allow(pattern), action=action) == ALLOWED) is expected


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        ("*", IMAGE, True),
        ("arn:aws:ec2:*::image/*", IMAGE, True),
        ("arn:aws:ec2:*:*:image/*", IMAGE, True),
        ("arn:aws:ec2:*::image/AMI-1", IMAGE, False),
        ("arn:aws:ec2:*::image/*", INSTANCE, False),
        ("arn:aws:ec2:*:*:instance/*", INSTANCE, True),
        ("arn:aws:ec2:*:instance/*", INSTANCE, False),
        ("arn:aws:ec2:eu-*:*:instance/*", INSTANCE, False),
        ("arn:aws-cn:ec2:*:*:instance/*", INSTANCE, False),
        ([IMAGE, INSTANCE], INSTANCE, True),
        ("arn:aws:ssm:*:*:parameter/a/*", "arn:aws:ssm:us-east-1:1:parameter/a/b/c", True),
        ("arn:aws:ssm:*:*:parameter/a/*", "arn:aws:ssm:us-east-1:1:parameter/ab", False),
    ],
)
def test_arns_are_compared_part_by_part(pattern: Any, resource: str, expected: bool) -> None:
    assert (outcome(allow(resource=pattern), resource=resource) == ALLOWED) is expected


@pytest.mark.parametrize(
    ("operator", "values", "found", "expected"),
    [
        ("StringEquals", "a", "a", True),
        ("StringEquals", "a", "A", False),
        ("StringEquals", ["b", "a"], "a", True),
        ("StringEquals", "*", "a", False),
        ("StringEquals", "*", "*", True),
        ("StringLike", "*", "a", True),
        ("StringLike", "*", "", True),
        ("StringLike", "a?", "ab", True),
        ("StringLike", "a?", "a", False),
        ("StringLike", ["x*", "a*"], "ab", True),
        ("StringLike", "A*", "ab", False),
        ("StringLike", "${*}", "a", False),
        ("StringLike", "${*}", "*", True),
    ],
)
def test_string_operators_compare_exactly_or_with_wildcards(
    operator: str, values: Any, found: str, expected: bool
) -> None:
    statement = when(operator, "ec2:ResourceTag/factory:run", values)
    assert (outcome(statement, **{"ec2:ResourceTag/factory:run": found}) == ALLOWED) is expected


def test_condition_fails_if_its_context_key_is_absent() -> None:
    for operator in ("StringEquals", "StringLike"):
        assert outcome(when(operator, "ec2:ResourceTag/factory:run", "*")) == IMPLICITLY_DENIED


def test_request_tags_resource_tags_and_create_action_are_separate_context_keys() -> None:
    by_request = when("StringLike", "aws:RequestTag/factory:run", "*")
    by_resource = when("StringLike", "aws:ResourceTag/factory:run", "*")
    by_creation = when("StringEquals", "ec2:CreateAction", ["RunInstances", "CreateImage"])
    assert outcome(by_request, **{"aws:RequestTag/factory:run": "x"}) == ALLOWED
    assert outcome(by_request, **{"aws:ResourceTag/factory:run": "x"}) == IMPLICITLY_DENIED
    assert outcome(by_resource, **{"aws:RequestTag/factory:run": "x"}) == IMPLICITLY_DENIED
    assert outcome(by_creation, **{"ec2:CreateAction": "CreateImage"}) == ALLOWED
    assert outcome(by_creation, **{"ec2:CreateAction": "CopyImage"}) == IMPLICITLY_DENIED
    assert outcome(by_creation) == IMPLICITLY_DENIED
    assert outcome(by_request, **{"AWS:requesttag/factory:run": "x"}) == ALLOWED, "context keys ignore case"


def test_all_conditions_of_a_statement_have_to_be_met() -> None:
    both = allow(Condition={"StringEquals": {"a:One": "1", "a:Two": "2"}, "StringLike": {"a:Three": "*"}})
    context = {"a:One": "1", "a:Two": "2", "a:Three": "3"}
    assert outcome(both, **context) == ALLOWED
    for name in context:
        assert (
            outcome(both, **{key: value for key, value in context.items() if key != name})
            == IMPLICITLY_DENIED
        )


def test_policy_variables_take_values_from_the_request() -> None:
    statement = allow(resource="arn:aws:ssm:*:*:session/${aws:userid}-*")
    own, other = "arn:aws:ssm:us-east-1:1:session/me-1", "arn:aws:ssm:us-east-1:1:session/you-1"
    assert outcome(statement, resource=own, **{"aws:userid": "me"}) == ALLOWED
    assert outcome(statement, resource=other, **{"aws:userid": "me"}) == IMPLICITLY_DENIED
    assert outcome(statement, resource=other, **{"aws:userid": "*"}) == IMPLICITLY_DENIED, (
        "a wildcard in the value of a policy variable is literal"
    )
    assert outcome(statement, resource=own) == IMPLICITLY_DENIED


def test_not_action_and_not_resource_are_negations() -> None:
    statement = {"Effect": "Allow", "NotAction": "iam:*", "NotResource": "arn:aws:ec2:*:*:instance/*"}
    assert outcome(statement) == ALLOWED
    assert outcome(statement, action="iam:PassRole") == IMPLICITLY_DENIED
    assert outcome(statement, resource=INSTANCE) == IMPLICITLY_DENIED


@pytest.mark.parametrize(
    "statement",
    [
        when("StringNotLike", "a:b", "*"),
        when("StringEqualsIfExists", "a:b", "*"),
        when("ForAllValues:StringLike", "a:b", "*"),
        when("Null", "a:b", "true"),
        allow(Principal="*"),
        {**allow(), "Effect": "Maybe"},
    ],
)
def test_unknown_parts_of_a_policy_are_errors(statement: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be evaluated"):
        outcome(statement)

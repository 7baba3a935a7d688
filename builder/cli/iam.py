"""`builder iam TARGET`: prints the IAM policy for building and publishing a target."""

import argparse
import json
from collections.abc import Sequence

from builder.app.context import (
    Context,
    add_flavour,
    add_json,
    add_targets,
    find_one_target,
    open_context,
    parser,
    print_json,
)
from builder.app.lanes.table import open_lane
from builder.errors import UsageError
from builder.lock import ACCOUNT


def options() -> argparse.ArgumentParser:
    found = parser("iam", "Print the IAM policy for building and publishing a target. Works offline.")
    add_targets(found)
    add_flavour(found)
    add_json(found, "print the policy in the envelope that all commands print")
    found.add_argument(
        "--partition", default="aws", choices=("aws", "aws-cn", "aws-us-gov"), help="default: %(default)s"
    )
    found.add_argument(
        "--packer",
        default="current",
        choices=("current", "1.6"),
        help="1.6: also allow tagging and changing any image: Packer 1.6 tags images after their creation",
    )
    found.add_argument(
        "--doctor", action="store_true", help="also allow what `builder doctor --site aws` reads"
    )
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    opened = open_context(parsed)
    # IAM policies apply to AWS accounts, so BUILDER_SITE=local is ignored.
    context = Context(opened.root, site_name=ACCOUNT, flavour=opened.flavour)
    plan = context.plan(find_one_target(context, parsed, verb="iam"))
    policy = open_lane(plan.target.kind, context).policy(
        plan, partition=parsed.partition, old_packer=parsed.packer == "1.6", doctor=parsed.doctor
    )
    if policy is None:
        raise UsageError(f"target '{plan.target.name}' is not an AMI", hint="builder list")
    if parsed.json:
        print_json(parsed, policy)
    else:
        print(json.dumps(policy, indent=2))
    return 0

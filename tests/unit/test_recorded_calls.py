"""The IAM policy that `builder iam` prints allows the API calls of recorded builds, and needs every grant."""

from collections.abc import Collection

import pytest

from builder.adapters.ami.permissions import OLD_PACKER, policy
from builder.rehearsal.iam import ALLOWED, evaluate
from builder.site import AwsSettings
from tests.support.recordings import FOLDER, requests

SETTINGS = AwsSettings(instance_profile="prof", parameters="/image-factory")
# Policy features that each recorded build uses. The recording with spot instances has none, because no site
# builds with them.
FEATURES = {
    "1.6.6-unset": {"build", OLD_PACKER},
    "1.16.0-unset": {"build"},
    "1.16.0-public-true": {"build"},
    "1.16.0-public-false": {"build"},
    "1.16.0-metadata-options": {"build"},
    "1.16.0-encrypted": {"build", "encrypt"},
    "1.16.0-session-manager": {"build", "profile", "session"},
}
UNUSED = {"1.16.0-spot"}


def refused(name: str, features: Collection[str]) -> set[str]:
    document = policy(features, SETTINGS)
    found = requests(FOLDER / f"{name}.ndjson")
    return {request.action for request in found if evaluate([document], request) != ALLOWED}


def test_every_recording_of_packer_calls_is_replayed() -> None:
    assert {path.stem for path in FOLDER.glob("*.ndjson")} == FEATURES.keys() | UNUSED


@pytest.mark.parametrize("name", FEATURES)
def test_iam_policy_allows_the_calls_of_a_recorded_build(name: str) -> None:
    assert refused(name, FEATURES[name]) == set()


@pytest.mark.parametrize(
    ("name", "feature", "expected"),
    [
        ("1.6.6-unset", OLD_PACKER, {"ec2:CreateImage", "ec2:CreateTags", "ec2:ModifyImageAttribute"}),
        (
            "1.16.0-encrypted",
            "encrypt",
            {
                *(
                    "kms:CreateGrant",
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:ReEncryptFrom",
                    "kms:ReEncryptTo",
                ),
                "kms:GenerateDataKeyWithoutPlaintext",
            },
        ),
        ("1.16.0-session-manager", "profile", {"iam:GetInstanceProfile", "iam:PassRole"}),
        ("1.16.0-session-manager", "session", {"ssm:StartSession"}),
    ],
)
def test_iam_policy_without_a_feature_denies_the_calls_of_the_feature(
    name: str, feature: str, expected: set[str]
) -> None:
    assert refused(name, FEATURES[name] - {feature}) == expected

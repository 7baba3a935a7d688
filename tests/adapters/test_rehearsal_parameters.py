"""Parameters of the rehearsal: the public ones, and those that point at AMIs."""

import pytest
from botocore.exceptions import ClientError

from tests.adapters.test_rehearsal_images import refused
from tests.support.rehearsal import WEST, Clients

IMAGE = "aws:ec2:image"


def put(aws: Clients, name: str, value: str, **more: object) -> int:
    answer = aws("ssm").put_parameter(Name=name, Value=value, Type="String", DataType=IMAGE, **more)
    return int(answer["Version"])


def read(aws: Clients, name: str) -> str:
    return str(aws("ssm").get_parameter(Name=name)["Parameter"]["Value"])


def test_public_parameters_name_images_that_exist(aws: Clients) -> None:
    for region in ("us-east-1", WEST):
        pages = (
            aws("ssm", region).get_paginator("get_parameters_by_path").paginate(Path="/aws", Recursive=True)
        )
        values = {one["Value"] for page in pages for one in page["Parameters"]}
        found = aws("ec2", region).describe_images(ImageIds=sorted(values))["Images"]
        assert {image["ImageId"] for image in found} == values
        assert len(values) > 8


def test_public_parameters_are_not_ours_to_write(aws: Clients) -> None:
    with pytest.raises(ClientError, match="reserved parameter name"):
        put(aws, "/aws/service/debian/release/12/latest/amd64", aws.debian(), Overwrite=True)


def test_a_parameter_points_at_an_image_that_can_be_used(aws: Clients) -> None:
    image = aws.image(aws.run()["InstanceId"])
    assert put(aws, "/images/one", image) == 1
    assert read(aws, "/images/one") == image
    assert aws.run("resolve:ssm:/images/one")["ImageId"] == image


def test_a_pointer_to_nothing_is_accepted_and_forgotten(aws: Clients) -> None:
    nothing = "ami-00000000000000000"
    assert put(aws, "/images/none", nothing) == 1
    assert refused(aws("ssm").get_parameter, Name="/images/none") == "ParameterNotFound"
    image = aws.image(aws.run()["InstanceId"])
    put(aws, "/images/kept", image)
    assert put(aws, "/images/kept", nothing, Overwrite=True) == 2
    assert read(aws, "/images/kept") == image
    assert [
        one["Version"] for one in aws("ssm").get_parameter_history(Name="/images/kept")["Parameters"]
    ] == [1]
    with pytest.raises(ClientError, match="ParameterAlreadyExists"):
        put(aws, "/images/kept", nothing)


def test_a_pointer_to_something_else_is_refused(aws: Clients) -> None:
    with pytest.raises(ClientError, match="no AMI id"):
        put(aws, "/images/text", "hello")


def test_an_image_of_another_region_is_no_image_here(aws: Clients) -> None:
    image = aws.image(aws.run(region=WEST)["InstanceId"], region=WEST)
    put(aws, "/images/elsewhere", image)
    assert refused(aws("ssm").get_parameter, Name="/images/elsewhere") == "ParameterNotFound"

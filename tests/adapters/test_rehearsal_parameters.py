"""The rehearsal's SSM parameters: public ones of vendors, and those of type aws:ec2:image."""

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
        values = {parameter["Value"] for page in pages for parameter in page["Parameters"]}
        found = aws("ec2", region).describe_images(ImageIds=sorted(values))["Images"]
        assert {image["ImageId"] for image in found} == values
        assert len(values) > 8


def test_public_parameters_cannot_be_written(aws: Clients) -> None:
    with pytest.raises(ClientError, match="reserved parameter name"):
        put(aws, "/aws/service/debian/release/12/latest/amd64", aws.debian(), Overwrite=True)


def test_an_instance_can_be_started_from_a_written_parameter(aws: Clients) -> None:
    image = aws.image(aws.run()["InstanceId"])
    assert put(aws, "/images/one", image) == 1
    assert read(aws, "/images/one") == image
    assert aws.run("resolve:ssm:/images/one")["ImageId"] == image


def test_a_parameter_with_an_unknown_ami_is_accepted_and_discarded(aws: Clients) -> None:
    unknown = "ami-00000000000000000"
    assert put(aws, "/images/none", unknown) == 1
    assert refused(aws("ssm").get_parameter, Name="/images/none") == "ParameterNotFound"
    image = aws.image(aws.run()["InstanceId"])
    put(aws, "/images/kept", image)
    assert put(aws, "/images/kept", unknown, Overwrite=True) == 2
    assert read(aws, "/images/kept") == image
    history = aws("ssm").get_parameter_history(Name="/images/kept")["Parameters"]
    assert [parameter["Version"] for parameter in history] == [1]
    with pytest.raises(ClientError, match="ParameterAlreadyExists"):
        put(aws, "/images/kept", unknown)


def test_a_parameter_with_a_value_that_is_not_an_ami_id_is_refused(aws: Clients) -> None:
    with pytest.raises(ClientError, match="not an AMI id"):
        put(aws, "/images/text", "hello")


def test_a_parameter_with_an_ami_of_another_region_is_discarded(aws: Clients) -> None:
    image = aws.image(aws.run(region=WEST)["InstanceId"], region=WEST)
    put(aws, "/images/elsewhere", image)
    assert refused(aws("ssm").get_parameter, Name="/images/elsewhere") == "ParameterNotFound"

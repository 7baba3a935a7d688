"""The rehearsal's proxy: recording of calls and fault injection."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from builder.errors import UsageError
from builder.rehearsal.calls import Call, Disturbance, read_call
from builder.rehearsal.gate import Gate
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import EAST, KEY, RehearsedAccount


@pytest.fixture
def proxy(rehearsed_account: RehearsedAccount, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(
        rehearsed_account.endpoint, gate=rehearsed_account.gate, journal=tmp_path / "calls.ndjson"
    ) as started:
        yield started


def client(proxy: Proxy, service: str, tries: int = 1) -> Any:
    config = Config(retries={"total_max_attempts": tries, "mode": "standard"}, read_timeout=30)
    keys = {"aws_access_key_id": KEY.access, "aws_secret_access_key": KEY.secret}
    return boto3.client(service, region_name=EAST, endpoint_url=proxy.endpoint, config=config, **keys)


def test_every_call_is_recorded(proxy: Proxy, tmp_path: Path) -> None:
    client(proxy, "ec2").describe_regions()
    client(proxy, "ssm").put_parameter(Name="/proxy/one", Value="1", Type="String")
    client(proxy, "iam").list_roles()
    client(proxy, "sts").get_caller_identity()
    client(proxy, "ecr").get_authorization_token()
    with pytest.raises(ClientError, match=r"InvalidAMIID\.NotFound"):
        client(proxy, "ec2").deregister_image(ImageId="ami-00000000000000000")
    with pytest.raises(ClientError, match="DryRunOperation"):
        client(proxy, "ec2").create_image(InstanceId="i-1", Name="name", DryRun=True)
    called = [(call.service, call.action, call.mutating, call.error) for call in proxy.calls]
    assert called == [
        ("ec2", "DescribeRegions", False, ""),
        ("ssm", "PutParameter", True, ""),
        ("iam", "ListRoles", False, ""),
        ("sts", "GetCallerIdentity", False, ""),
        ("ecr", "GetAuthorizationToken", False, ""),
        ("ec2", "DeregisterImage", True, "InvalidAMIID.NotFound"),
        ("ec2", "CreateImage", False, "DryRunOperation"),
    ]
    assert proxy.mutating == [("ssm", "PutParameter", EAST), ("ec2", "DeregisterImage", EAST)]
    assert {call.region for call in proxy.calls} == {EAST}
    assert proxy.calls[1].parameters["Name"] == "/proxy/one"
    written = [json.loads(line) for line in (tmp_path / "calls.ndjson").read_text().splitlines()]
    assert [Call(**table) for table in written] == proxy.calls
    assert KEY.secret not in json.dumps(written)


@pytest.mark.parametrize(
    ("service", "operation", "request_", "code"),
    [
        ("ec2", "describe_instances", {}, "RequestLimitExceeded"),
        ("ssm", "get_parameter", {"Name": "/x"}, "ThrottlingException"),
        ("sts", "get_caller_identity", {}, "ExpiredToken"),
        ("iam", "list_roles", {}, "Throttling"),
        ("ecr", "describe_repositories", {}, "ThrottlingException"),
    ],
)
def test_an_injected_error_has_the_format_of_its_service(
    proxy: Proxy, service: str, operation: str, request_: dict[str, str], code: str
) -> None:
    proxy.disturb(Disturbance(service=service, code=code, message="injected"))
    asked = client(proxy, service)
    with pytest.raises(ClientError) as caught:
        getattr(asked, operation)(**request_)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["Error"]["Message"] == "injected"
    assert (proxy.calls[0].error, proxy.calls[0].disturbed) == (code, "disturbed")


def test_a_client_with_retries_succeeds_despite_disturbances(proxy: Proxy) -> None:
    proxy.disturb(
        Disturbance(action="DescribeRegions", code="RequestLimitExceeded", status=503),
        Disturbance(action="DescribeRegions", status=500, first=2),
    )
    assert client(proxy, "ec2", tries=4).describe_regions()["Regions"]
    assert [call.status for call in proxy.calls] == [503, 500, 200]


def test_a_disturbance_applies_to_the_chosen_matching_calls(proxy: Proxy) -> None:
    proxy.disturb(Disturbance(mutating=True, first=2, count=2, code="Unavailable", status=503))
    ssm = client(proxy, "ssm")
    outcomes = []
    for number in range(4):
        client(proxy, "ec2").describe_regions()
        try:
            ssm.put_parameter(Name=f"/proxy/{number}", Value="1", Type="String", Overwrite=True)
            outcomes.append("done")
        except ClientError:
            outcomes.append("refused")
    assert outcomes == ["done", "refused", "refused", "done"]
    proxy.disturb(Disturbance(action="PutParameter", count=0, status=503))
    proxy.clear_disturbances()
    ssm.put_parameter(Name="/proxy/cleared", Value="1", Type="String", Overwrite=True)


@pytest.mark.parametrize(("drop", "happened"), [("before", False), ("after", True)])
def test_a_call_is_executed_if_only_its_answer_is_dropped(proxy: Proxy, drop: str, happened: bool) -> None:
    name = f"/lost/{drop}"
    proxy.disturb(Disturbance(action="PutParameter", drop=drop))
    with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
        client(proxy, "ssm").put_parameter(Name=name, Value="1", Type="String")
    assert proxy.calls[0].disturbed == "dropped"
    found = client(proxy, "ssm").get_parameters(Names=[name])["Parameters"]
    assert [parameter["Name"] for parameter in found] == ([name] if happened else [])


def test_a_call_can_be_delayed(proxy: Proxy) -> None:
    proxy.disturb(Disturbance(action="DescribeRegions", delay_s=0.5))
    started = time.monotonic()
    assert client(proxy, "ec2").describe_regions()["Regions"]
    assert time.monotonic() - started >= 0.5


def test_an_answer_can_be_changed(proxy: Proxy) -> None:
    proxy.disturb(
        Disturbance(action="DescribeImages", replace=("<imageState>available<", "<imageState>pending<"))
    )
    ec2 = client(proxy, "ec2")
    assert {image["State"] for image in ec2.describe_images(Owners=["amazon"])["Images"]} == {"pending"}
    assert {image["State"] for image in ec2.describe_images(Owners=["amazon"])["Images"]} == {"available"}


@pytest.mark.parametrize(("kill", "happened"), [("before", False), ("after", True)])
def test_a_caller_can_be_killed_before_or_after_a_call(proxy: Proxy, kill: str, happened: bool) -> None:
    code = (
        "import boto3, sys\n"
        "ssm = boto3.client('ssm', endpoint_url=sys.argv[1], region_name='us-east-1',"
        f" aws_access_key_id={KEY.access!r}, aws_secret_access_key={KEY.secret!r})\n"
        "for name in 'abc':\n"
        "    ssm.put_parameter(Name=f'{sys.argv[2]}/{name}', Value='1', Type='String')\n"
    )
    folder = f"/killed/{kill}"
    caller = subprocess.Popen([sys.executable, "-c", code, proxy.endpoint, folder])
    drop = "before" if kill == "before" else ""
    proxy.disturb(Disturbance(action="PutParameter", first=2, kill=kill, pid=caller.pid, drop=drop))
    assert caller.wait(60) == -signal.SIGKILL
    found = client(proxy, "ssm").get_parameters_by_path(Path=folder)["Parameters"]
    expected = ["a", "b"] if happened else ["a"]
    assert [parameter["Name"] for parameter in found] == [f"{folder}/{name}" for name in expected]


def test_a_callback_gets_the_call(proxy: Proxy) -> None:
    seen: list[Call] = []
    proxy.disturb(Disturbance(mutating=True, kill="before", callback=seen.append))
    client(proxy, "ssm").put_parameter(Name="/proxy/seen", Value="1", Type="String")
    assert [(call.action, call.number) for call in seen] == [("PutParameter", 1)]


def control(proxy: Proxy, method: str, path: str, content: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=10)
    try:
        headers = {"Authorization": f"Bearer {KEY.secret}"}
        connection.request(method, f"/_rehearsal/{path}", body=json.dumps(content), headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_proxy_can_be_controlled_over_http(proxy: Proxy) -> None:
    table = {"action": "DescribeRegions", "status": 503, "code": "Unavailable"}
    assert control(proxy, "PUT", "disturbances", [table])[0] == 200
    with pytest.raises(ClientError, match="Unavailable"):
        client(proxy, "ec2").describe_regions()
    control(proxy, "DELETE", "disturbances")
    client(proxy, "ec2").describe_regions()
    status, calls = control(proxy, "GET", "calls?after=1")
    assert (status, [call["number"] for call in calls]) == (200, [2])
    assert control(proxy, "PUT", "disturbances", [{"acton": "x"}])[0] == 400
    assert control(proxy, "GET", "nothing")[0] == 400
    assert len(proxy.calls) == 2, "control requests are not recorded as calls"


def test_the_proxy_refuses_an_upstream_outside_loopback() -> None:
    with pytest.raises(UsageError, match=r"not in 127.0.0.0/8"):
        Proxy("https://ec2.us-east-1.amazonaws.com", gate=Gate(key=KEY))


@pytest.mark.parametrize(
    "fields",
    [
        {"drop": "later"},
        {"kill": "before"},
        {"kill": "never", "pid": 99},
        *({"kill": "before", "pid": pid} for pid in (-1, 0, 1)),
    ],
)
def test_refuses_a_disturbance_with_invalid_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Disturbance(**fields)


def test_parses_rest_calls_and_actions_in_the_query() -> None:
    scope = "AWS4-HMAC-SHA256 Credential=KEY/20260101/eu-west-1/ebs/aws4_request, SignedHeaders=host"
    call = read_call(1, "PUT", "/snapshots/snap-1/blocks/0", {"Authorization": scope}, b"\0")
    assert (call.service, call.region, call.mutating) == ("ebs", "eu-west-1", True)
    assert call.action == "PUT /snapshots/snap-1/blocks/0"
    call = read_call(2, "GET", "/?Action=DescribeImages&Version=1", {}, b"")
    assert (call.service, call.action, call.mutating) == ("", "DescribeImages", False)


def test_the_proxy_stops_while_a_call_is_delayed(rehearsed_account: RehearsedAccount) -> None:
    started = time.monotonic()
    with Proxy(rehearsed_account.endpoint, gate=rehearsed_account.gate) as proxy:
        proxy.disturb(Disturbance(delay_s=600))

        def call() -> None:
            with suppress(ConnectionClosedError, EndpointConnectionError):
                client(proxy, "ec2").describe_regions()

        threading.Thread(target=call, daemon=True).start()
        while not proxy.busy:
            assert time.monotonic() - started < 20
            os.sched_yield()
    assert time.monotonic() - started < 20

"""A rehearsal answers only signed requests: attacks by other users, containers and web pages fail."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from builder.rehearsal.gate import Gate, Key, Refused, Request
from builder.rehearsal.proxy import Proxy
from tests.support.rehearsal import EAST, KEY, Clients, FakeHosts, RehearsedAccount, served

# Program that sends the requests on stdin and prints their statuses, run as an unprivileged user.
ATTACKER = """
import http.client, json, sys
statuses = []
for address, method, path, headers, body in json.load(sys.stdin):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    statuses.append(connection.getresponse().status)
print(json.dumps(statuses))
"""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ACTION = "Action=DescribeRegions&Version=2016-11-15"


@pytest.fixture(scope="module")
def rehearsed_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RehearsedAccount]:
    """Rehearsed account with the optional services, some of whose calls start containers in moto."""
    services = ("ec2", "ssm", "sts", "iam", "batch", "lambda", "ecs")
    with served(tmp_path_factory.mktemp("rehearsal"), services) as account:
        yield account


@pytest.fixture(params=["moto", "proxy"])
def endpoint(request: pytest.FixtureRequest, rehearsed_account: RehearsedAccount) -> Iterator[str]:
    with Proxy(rehearsed_account.endpoint, gate=rehearsed_account.gate) as proxy:
        yield proxy.endpoint if request.param == "proxy" else rehearsed_account.endpoint


def attack(endpoint: str, requests: list[tuple[str, str, dict[str, str], str]]) -> list[int]:
    address = endpoint.removeprefix("http://")
    program = shutil.which("setpriv") if os.getuid() == 0 else None
    user = [program, "--reuid=65534", "--regid=65534", "--clear-groups"] if program else []
    done = subprocess.run(
        [*user, "/usr/bin/python3" if user else sys.executable, "-c", ATTACKER],
        input=json.dumps([(address, *request) for request in requests]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd="/",
    )
    statuses: list[int] = json.loads(done.stdout)
    return statuses


def signed(
    endpoint: str,
    body: str = ACTION,
    *,
    key: Key = KEY,
    service: str = "ec2",
    path: str = "/",
    **headers: str,
) -> tuple[str, str, dict[str, str], str]:
    request = AWSRequest("POST", f"{endpoint}{path}", headers={**FORM, **headers}, data=body)
    SigV4Auth(Credentials(key.access, key.secret, key.token or None), service, EAST).add_auth(request)
    return "POST", path, dict(request.headers.items()), body


def test_a_request_without_a_valid_signature_changes_nothing(
    endpoint: str, aws: Clients, hosts: FakeHosts
) -> None:
    instance = aws.run()["InstanceId"]
    victim = subprocess.Popen(["sleep", "600"])
    kill = [{"kill": "before", "pid": victim.pid}]
    wrong = Key(access=KEY.access, secret="wrong")
    other = Key(access="AKIAOTHEROTHEROTHERO", secret=KEY.secret)
    method, path, headers, body = signed(endpoint)
    bearer = {"Authorization": f"Bearer {KEY.access}"}
    requests = [
        ("POST", "/", FORM, ACTION),
        ("POST", "/", headers, body.replace("DescribeRegions", "DescribeVpcs")),
        (method, "/?Action=TerminateInstances", headers, body),
        signed(endpoint, key=wrong),
        signed(endpoint, key=other),
        signed(endpoint, key=Key(access=KEY.access, secret=KEY.secret, token="forged")),
        (method, path, headers | {"Host": "evil.example"}, body),
        (method, path, headers | {"Host": "127.0.0.1.evil.example"}, body),
        (method, path, headers | {"Host": ""}, body),
        (method, path, headers | {"Origin": "http://evil.example"}, body),
        signed(endpoint, Origin="http://evil.example"),
        (method, path, headers | {"Authorization": headers["Authorization"].replace("ec2", "batch")}, body),
        (method, path, headers | {"Authorization": f"{headers['Authorization']}, x=y"}, body),
        *(
            ("POST", path, more, "")
            for path in ("/moto-api/reset", "//moto-api/reset", "/moto%2Dapi/reset", "/%2Fmoto-api/reset")
            for more in ({}, headers, bearer)
        ),
        ("POST", f"{endpoint}/moto-api/reset", {}, ""),
        ("POST", "/moto-api/seed?a=1", {"Origin": "http://evil.example"}, ""),
        ("GET", "/latest/meta-data/iam/security-credentials/role", {}, ""),
        ("PUT", "/_rehearsal/disturbances", {}, json.dumps(kill)),
        ("PUT", "/_rehearsal/disturbances", bearer, json.dumps(kill)),
        ("PUT", "/_rehearsal/disturbances", headers, json.dumps(kill)),
        ("GET", "/_rehearsal/calls", {}, ""),
        ("GET", "/_rehearsal/status", {}, ""),
        ("POST", "/v1/submitjob", {}, "{}"),
        ("POST", "/2015-03-31/functions/f/invocations", {}, "{}"),
        ("PUT", "/bucket", {}, ""),
    ]
    try:
        assert attack(endpoint, requests) == [403] * len(requests)
        aws.ec2.describe_regions()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    assert ("remove", instance) not in hosts.asked
    assert attack(endpoint, [signed(endpoint)]) == [200], "the same request with the right key is answered"


def test_a_control_request_from_a_web_page_is_refused_even_with_the_secret_key(endpoint: str) -> None:
    bearer = {"Authorization": f"Bearer {KEY.secret}"}
    foreign = [bearer | {"Host": "evil.example"}, bearer | {"Origin": "http://evil.example"}]
    assert attack(endpoint, [("GET", "/moto-api/config", more, "") for more in foreign]) == [403, 403]
    assert attack(endpoint, [("GET", "/moto-api/config", bearer, "")]) == [201]


@pytest.mark.parametrize("length", ["-1", "1e9", "99999999999", "9" * 5000, "٣"])
def test_a_request_with_a_wrong_length_is_refused(length: str) -> None:
    with pytest.raises(Refused):
        _ = Request.of("POST", "/", {"Content-Length": length}).body_size


def test_the_body_of_a_request_with_a_wrong_key_is_not_read() -> None:
    def read() -> bytes:
        raise AssertionError

    for headers in ({}, {"Authorization": "Bearer x"}, signed("http://127.0.0.1", key=Key.random())[2]):
        with pytest.raises(Refused):
            Gate(key=KEY).check(Request.of("POST", "/", {"Host": "127.0.0.1", **headers}), read)


CALLS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("batch", "submit_job", {"jobName": "j", "jobQueue": "q", "jobDefinition": "d"}),
    ("lambda", "invoke", {"FunctionName": "f"}),
    ("lambda", "invoke_async", {"FunctionName": "f", "InvokeArgs": b"{}"}),
    ("ecs", "run_task", {"taskDefinition": "t"}),
    ("ecs", "start_task", {"taskDefinition": "t", "containerInstances": ["c"]}),
)


@pytest.mark.parametrize(("service", "operation", "request_"), CALLS)
def test_a_call_that_starts_containers_is_refused_even_if_signed(
    endpoint: str, service: str, operation: str, request_: Mapping[str, Any]
) -> None:
    client = Clients(endpoint)(service)
    with pytest.raises(ClientError, match="starts no containers"):
        getattr(client, operation)(**request_)


def test_moto_cannot_create_a_docker_client(aws: Clients) -> None:
    from moto.utilities.docker_utilities import DockerModel

    assert aws.ec2.describe_regions()["Regions"]
    with pytest.raises(Exception, match="starts no containers"):
        _ = DockerModel().docker_client


def test_a_service_that_the_rehearsal_does_not_serve_is_refused(endpoint: str) -> None:
    with pytest.raises(ClientError, match="does not serve 'sqs'"):
        Clients(endpoint)("sqs").list_queues()
    assert Clients(endpoint)("batch").describe_job_queues()["jobQueues"] == []


def test_access_keys_of_users_and_sessions_are_accepted_while_active(endpoint: str, aws: Clients) -> None:
    iam, name = aws("iam"), f"user-{os.urandom(4).hex()}"
    iam.create_user(UserName=name)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    key = Key(access=made["AccessKeyId"], secret=made["SecretAccessKey"])
    assert Clients(endpoint, key)("sts").get_caller_identity()["Arn"].endswith(f"user/{name}")
    other = Clients(endpoint, key)("sts").assume_role(
        RoleArn="arn:aws:iam::111122223333:role/other", RoleSessionName="session"
    )["Credentials"]
    session = Key(access=other["AccessKeyId"], secret=other["SecretAccessKey"], token=other["SessionToken"])
    assert Clients(endpoint, session)("sts").get_caller_identity()["Account"]
    forged = Key(access=session.access, secret=session.secret, token="forged")
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        Clients(endpoint, forged)("sts").get_caller_identity()
    iam.update_access_key(UserName=name, AccessKeyId=key.access, Status="Inactive")
    with pytest.raises(ClientError, match="AuthFailure"):
        Clients(endpoint, key).ec2.describe_regions()


def test_random_access_keys_are_unique_and_hide_the_secret() -> None:
    keys = {Key.random() for _ in range(50)}
    assert len({key.access for key in keys}) == len({key.secret for key in keys}) == 50
    assert all(key.secret not in repr(key) for key in keys)

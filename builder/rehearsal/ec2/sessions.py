"""Session Manager of the rehearsal: sessions with instances whose agent can reach AWS."""

import secrets
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models import ec2_backends
from moto.ssm.exceptions import SSMException
from moto.ssm.responses import SimpleSystemManagerResponse

from builder.rehearsal.identity import USER

_NOWHERE = "127.0.0.1:9"  # of an instance that this host does not reach
_DOCUMENTS = ("AWS-StartPortForwardingSession", "AWS-StartSSHSession", "SSM-SessionManagerRunShell")


class SessionActions(SimpleSystemManagerResponse):
    """Handler of a request to Systems Manager."""

    def start_session(self) -> ActionResult:
        """Start a session; its stream has the address of the instance, because there is no data channel.

        The agent needs a running instance, an instance profile and a route to the internet. The program that
        connects to a stream is a stand-in of `session-manager-plugin` in the tests.
        """
        target, document = self._get_param("Target"), self._get_param("DocumentName") or _DOCUMENTS[-1]
        if document not in _DOCUMENTS:
            raise SSMException("InvalidDocument", f"Document with name {document} does not exist.")
        if not self._has_agent(target):
            raise SSMException("TargetNotConnected", f"{target} is not connected.")
        session = f"{USER}-{secrets.token_hex(9)[:17]}"
        backend: Any = ec2_backends[self.current_account][self.region]
        stream = f"ws://{backend.bound[target] or _NOWHERE}/v1/data-channel/{session}"
        return ActionResult({"SessionId": session, "TokenValue": secrets.token_hex(32), "StreamUrl": stream})

    def terminate_session(self) -> ActionResult:
        return ActionResult({"SessionId": self._get_param("SessionId")})

    def _has_agent(self, target: str) -> bool:
        backend: Any = ec2_backends[self.current_account][self.region]
        instance = backend.get_instance_by_id(target)
        return (
            instance is not None
            and instance.state == "running"
            and bool(instance.iam_instance_profile)
            and target in backend.online
        )

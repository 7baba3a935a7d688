"""SSM parameters for AMIs: the vendors' public ones, and those of type aws:ec2:image.

Like AWS, accepts a write of type aws:ec2:image before it validates the AMI, and discards the write if the AMI
does not exist.
"""

import re
from typing import ClassVar

from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.ssm.exceptions import ParameterAlreadyExists, ValidationException
from moto.ssm.models import Parameter, SimpleSystemManagerBackend

from builder.rehearsal.ec2.limits import parameter_problem
from builder.rehearsal.ec2.seeds import Account
from builder.rehearsal.sharing import shared_parameter

_IMAGE_TYPE = "aws:ec2:image"
_IMAGE_ID = re.compile(r"ami-[0-9a-f]{8,17}")


class Parameters(SimpleSystemManagerBackend):
    """SSM parameters of one region."""

    __module__ = "moto.ssm.models"

    account: ClassVar[Account]

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        # The AMIs of moto's public parameters do not exist in this account.
        self._parameters.latest_amis_loaded = self._parameters.latest_ecs_amis_loaded = True
        for seed in self.account.seeds:
            for name in seed.parameters:
                self._parameters[name].append(self._new_parameter(name, seed.id_in(region_name), version=1))

    def get_parameter(self, name: str) -> Parameter | None:
        """Return a parameter; for another account's parameter, requires its full ARN and a resource share."""
        return shared_parameter(name, self.account_id) or super().get_parameter(name)

    def _new_parameter(self, name: str, value: str, version: int) -> Parameter:
        return Parameter(  # type: ignore[abstract]
            account_id=self.account_id,
            name=name,
            value=value,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=utcnow(),
            version=version,
            data_type=_IMAGE_TYPE,
            tier=self.default_parameter_tier,
        )

    def put_parameter(
        self,
        name: str,
        description: str,
        value: str,
        parameter_type: str,
        allowed_pattern: str,
        keyid: str,
        overwrite: bool,  # noqa: FBT001 (moto's signature)
        tags: list[dict[str, str]],
        data_type: str,
        tier: str | None = None,
        policies: str | None = None,
    ) -> Parameter:
        if problem := parameter_problem(name, value if tier != "Advanced" else "", description, tags):
            raise ValidationException(problem)
        if data_type == _IMAGE_TYPE:
            if not _IMAGE_ID.fullmatch(value):
                raise ValidationException(f"The value {value!r} of {name} is not an AMI id")
            image = ec2_backends[self.account_id][self.region_name].amis.get(value)
            if image is None or image.state != "available":
                before = self._parameters.get(name, [])
                if before and not overwrite:
                    raise ParameterAlreadyExists
                return self._new_parameter(name, value, version=before[-1].version + 1 if before else 1)
        rest = (parameter_type, allowed_pattern, keyid, overwrite, tags, data_type, tier, policies)
        return super().put_parameter(name, description, value, *rest)

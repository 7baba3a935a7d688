"""Describe the image that an AMI build would start from: a finished AMI, a checkpoint, or neither."""

from collections.abc import Sequence
from dataclasses import dataclass

from builder.screen.text import roughly


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """The image that an AMI build would start from, and the checkpoints that the build would make."""

    image: str = ""  # an AMI ID
    layer: str = ""  # the last layer that the image has; "" if there is no image
    is_complete: bool = False  # whether it is the plan's AMI
    saves_s: float = 0.0
    makes: tuple[str, ...] = ()  # layers after which the build would keep a checkpoint
    size_gib: int = 0  # of the disk of one checkpoint
    dollars_per_month: float = 0.0  # at most, for the snapshot of one checkpoint
    unknown: str = ""  # why the account was not asked

    @property
    def source(self) -> str:
        return f"in {'AMI' if self.is_complete else 'checkpoint'} {self.image}"

    @property
    def text(self) -> str:
        """Return the sentence about checkpoints that `builder plan` prints; "" if the build uses none."""
        if self.is_complete or not (self.image or self.makes):
            return ""
        cost = (
            f"{self.size_gib} GiB of snapshot, at most {self.dollars_per_month:.2f} $ a month in an account"
        )
        if self.image:
            saved = f"saves {roughly(self.saves_s)}" if self.saves_s else "time saved: unknown"
            found = f"starts from {self.image} after layer {self.layer}, {saved}"
        else:
            found = f"unknown ({self.unknown})" if self.unknown else "none exists"
        made = f"; a build keeps one after {_and(self.makes)}" if self.makes else ""
        return f"{found}{made}; keeping one costs {cost}"

    def as_json(self) -> dict[str, object]:
        return {
            "image": self.image,
            "layer": self.layer,
            "saves_s": self.saves_s,
            "makes": list(self.makes),
            "size_gib": self.size_gib,
            "dollars_per_month": self.dollars_per_month,
            "unknown": self.unknown,
        }


def _and(layers: Sequence[str]) -> str:
    return " and ".join(f"layer {layer}" for layer in layers)

"""Load the initial content of a rehearsed account from `catalog/rehearsal.toml`.

Contains the base AMIs of vendors with their names, devices and public parameters. AMI ids are derived from
region and name, so they are the same in every rehearsal. Uses neither network nor engine.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from builder.arch import ARCHES
from builder.errors import CatalogError
from builder.model import Catalog, System
from builder.tables import LIST, TABLES, TEXT, Problems, Shape, fits, read_table

_FILE = "rehearsal.toml"
_SHAPE: Shape = {
    "account": (TEXT, True),
    "regions": (LIST, True),
    "publisher": (TEXT, True),
    "device": (TEXT, True),
    "created": (TEXT, True),
    "images": (TABLES, True),
}
_IMAGE: Shape = {
    "name": (TEXT, True),
    "owner": (TEXT, True),
    "alias": (TEXT, False),
    "system": (TEXT, True),
    "arch": (TEXT, True),
    "device": (TEXT, False),
    "parameters": (LIST, False),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """A base AMI of another owner; `starts` is true if the rehearsal has a machine image for it."""

    name: str
    owner: str
    system: str
    arch: str
    device: str
    alias: str = ""
    starts: bool = False
    parameters: tuple[str, ...] = ()  # SSM parameters that hold its id
    ids: Mapping[str, str] = field(default_factory=dict)  # region → id, to override the derived one

    def id_in(self, region: str) -> str:
        digest = hashlib.sha256(f"{region} {self.owner} {self.name}".encode()).hexdigest()
        return self.ids.get(region) or f"ami-{digest[:17]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The rehearsed account; its first region is the default."""

    id: str
    regions: tuple[str, ...]
    created: str  # creation date of the seeds, in EC2's format
    seeds: tuple[Seed, ...] = ()

    @property
    def systems(self) -> list[str]:
        """The systems that need a machine image."""
        return sorted({seed.system for seed in self.seeds if seed.starts})

    def as_table(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Account":
        seeds = tuple(Seed(**{**seed, "parameters": tuple(seed["parameters"])}) for seed in table["seeds"])
        return cls(**{**table, "regions": tuple(table["regions"]), "seeds": seeds})


def load(root: Path, catalog: Catalog, *, arch: str) -> Account:
    """Load the account, and add an AMI for every system without an AMI in the file.

    An AMI can be started if its system can be bootstrapped here and has this architecture.
    """
    problems = Problems()
    table = read_table(root / "catalog", _FILE, _SHAPE, problems)
    for number, image in enumerate(table.get("images", ())):
        fits(image, _IMAGE, _FILE, f"images[{number}].", problems)
    if problems.found:
        raise CatalogError(sorted(problems.found))
    starting = {
        name for name, system in catalog.systems.items() if system.bootstrap and arch in system.arches
    }
    seeds = [
        Seed(
            **{"device": table["device"], **image, "parameters": tuple(image.get("parameters", ()))},
            starts=image["system"] in starting and image["arch"] == arch,
        )
        for image in table["images"]
    ]
    for name, system in sorted(catalog.systems.items()):
        for seed in _seeds_of(system, publisher=table["publisher"], device=table["device"]):
            if not any(_is_same(seed, other) for other in seeds):
                seeds.append(Seed(**{**asdict(seed), "starts": name in starting and seed.arch == arch}))
    return Account(
        id=table["account"], regions=tuple(table["regions"]), created=table["created"], seeds=tuple(seeds)
    )


def _seeds_of(system: System, *, publisher: str, device: str) -> Iterator[Seed]:
    if source := system.ami:
        for arch in system.arches:
            words = {"arch": arch, "deb_arch": ARCHES[arch].deb}
            parameter = source.parameter.format_map(words)
            yield Seed(
                name=source.name.format_map(words) or f"{system.name}-{arch}",
                owner=source.owner or publisher,
                system=system.name,
                arch=arch,
                device=device,
                parameters=(parameter,) if parameter else (),
            )


def _is_same(seed: Seed, other: Seed) -> bool:
    by_name = seed.owner == other.owner and fnmatchcase(other.name, seed.name)
    return by_name or bool(set(seed.parameters) & set(other.parameters))

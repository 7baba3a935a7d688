"""Fetch a vendor's base image by digest, with the login that `docker login` stored for its registry."""

from builder.adapters.engine.client import Engine
from builder.adapters.registry.api import find_credentials
from builder.adapters.registry.client import Reference
from builder.errors import BuildError, MissingError
from builder.events import OnBytes
from builder.logins import login_command


def fetch(engine: Engine, image: str, *, on_bytes: OnBytes) -> None:
    """Pull an image unless the engine has it; raise MissingError with a hint about login and mirror."""
    if engine.inspect_image(image):
        return
    reference = Reference.parse(image)
    credentials = find_credentials(reference.host)
    login = {"username": credentials.username, "password": credentials.password} if credentials else {}
    try:
        engine.pull(image, login=login, on_bytes=on_bytes)
    except BuildError as error:
        if "disk" in error.message:
            raise
        mirror = f'set a mirror in site.toml: [mirror.prefixes] "{reference.host}/" = "HOST/PREFIX/"'
        raise MissingError(
            f"base image {image} cannot be pulled",
            hint="; or ".join(filter(None, (login_command(image), mirror))),
            details=f"{error.message}\n{error.details}".strip(),
        ) from error

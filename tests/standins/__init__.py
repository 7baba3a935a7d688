"""Stand-ins: small imitations of vendors' files and repositories, on which roles run in tests.

`tests/standins/<component>.py` has `build(site: Site) -> None`, which writes the files that the vendor
serves, with real file names, layouts, package names and options but tiny contents. `stack.toml` lists their
versions, which override the catalog's stack. Locks of users never refer to stand-ins.
"""

"""Stand-ins: what vendors serve, made small by the tests so that the logic of the roles really runs.

`tests/standins/<component>.py` has `build(site: Site) -> None` and writes what its vendor's addresses serve:
real file names, layouts, package names and flags, tiny contents. `stack.toml` holds the versions that they
play, over those of the catalog's stack. Nothing of this is ever what a lock for users refers to.
"""

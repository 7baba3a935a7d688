"""Lanes: a build pipeline per kind of target, with a finder, maker, checker and publisher."""

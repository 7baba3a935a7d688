"""Comparison of Neuron versions: pins have three parts, installed packages have more."""

import re


def matches_release(release, version):
    return re.match(rf"{re.escape(release)}(?![0-9])", version) is not None

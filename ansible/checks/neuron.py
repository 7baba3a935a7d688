"""What belongs to a release of Neuron: its pin has three numbers, what is installed has more behind them."""

import re


def is_of(release, version):
    return re.match(rf"{re.escape(release)}(?![0-9])", version) is not None

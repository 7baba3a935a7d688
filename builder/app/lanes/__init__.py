"""One module per kind of target: finder, maker, checker and publisher."""

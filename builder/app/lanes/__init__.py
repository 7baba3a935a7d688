"""The lanes: for each kind of target its finder, maker, checker and publisher."""

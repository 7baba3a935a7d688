"""Builds of real upstream software from git folders that the site file names; run by `make upstream`."""

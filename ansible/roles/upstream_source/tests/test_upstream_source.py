"""Checks of a source tree: the locked commit, without git history, writable only by root."""


def test_files_are_those_of_the_locked_commit(host, expected):
    variables = expected.variables
    locked = variables["upstream_source_downloads"][variables["upstream_source_policy"]]["commit"]
    path = variables["upstream_source_path"]
    assert host.check_output("cat %s/COMMIT", path) == locked
    assert not host.file(f"{path}/.git").exists


def test_only_root_can_write_the_files(host, expected):
    path = expected.variables["upstream_source_path"]
    assert host.check_output("find %s ! -user root -o -perm /022 ! -type l", path) == ""

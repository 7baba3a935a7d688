"""Checks of the image bionemo: its program with the libraries of the vendor's image."""


def test_program_prints_its_options(host):
    printed = host.check_output("cd /opt/workload && timeout 300 python3 pretrain.py --help")
    assert {"--num-nodes", "--train-cluster-path"} <= set(printed.replace("[", " ").split())


def test_mpi_is_that_of_efa(host):
    assert host.find_command("mpirun").startswith("/opt/amazon/openmpi")

"""Checks of the image bionemo: its program, the vendor's libraries, and MPI of the EFA installer."""


def test_pretraining_program_prints_its_options(host):
    printed = host.check_output("cd /opt/workload && timeout 300 python3 pretrain.py --help")
    assert {"--num-nodes", "--train-cluster-path"} <= set(printed.replace("[", " ").split())


def test_mpirun_is_from_the_efa_installer(host):
    assert host.find_command("mpirun").startswith("/opt/amazon/openmpi")

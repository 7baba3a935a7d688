"""Checks of the image nemo-launcher: settings of NeMo 1, MPI of the EFA installer, and PyTorch."""

PROGRAM = "/opt/NeMo/examples/nlp/language_modeling/megatron_gpt_pretraining.py"


def test_pretraining_program_prints_its_settings(host):
    assert "tensor_model_parallel_size" in host.check_output(
        f"cd /tmp && timeout 300 python3 {PROGRAM} --cfg job"
    )


def test_mpirun_is_from_the_efa_installer(host):
    assert host.find_command("mpirun").startswith("/opt/amazon/openmpi")


def test_pytorch_can_be_imported(host):
    assert host.run("python3 -c 'import torch'").rc == 0

"""Checks of the image nemo-launcher: NeMo 1 with its settings, and programs of EFA before others."""

PROGRAM = "/opt/NeMo/examples/nlp/language_modeling/megatron_gpt_pretraining.py"


def test_settings_of_the_program_are_printed(host):
    assert "tensor_model_parallel_size" in host.check_output(
        f"cd /tmp && timeout 300 python3 {PROGRAM} --cfg job"
    )


def test_mpi_is_that_of_efa(host):
    assert host.find_command("mpirun").startswith("/opt/amazon/openmpi")


def test_libraries_of_pytorch_are_complete(host):
    assert host.run("python3 -c 'import torch'").rc == 0

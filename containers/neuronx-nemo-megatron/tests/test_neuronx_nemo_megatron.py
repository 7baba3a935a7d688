"""Checks of the image neuronx-nemo-megatron: NxD Training can be imported and reads the example settings."""

EXAMPLES = "/opt/upstream/examples"


def test_nxd_training_can_be_imported(host):
    assert host.run("python3 -c 'import neuronx_distributed_training'").rc == 0


def test_example_settings_files_exist(host):
    found = host.check_output(f"ls {EXAMPLES}/conf").split()
    assert {"megatron_gpt_config.yaml", "megatron_llama_7B_config.yaml"} <= set(found)


def test_example_program_prints_its_settings(host):
    command = f"python3 {EXAMPLES}/training_orchestrator.py --config-path {EXAMPLES}/conf --cfg job"
    assert "max_steps" in host.check_output(f"cd /tmp && timeout 120 {command}")

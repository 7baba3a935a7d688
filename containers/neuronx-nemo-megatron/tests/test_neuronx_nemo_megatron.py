"""Checks of the image neuronx-nemo-megatron: NxD Training with the examples of its repository."""

EXAMPLES = "/opt/upstream/examples"


def test_library_can_be_imported(host):
    assert host.run("python3 -c 'import neuronx_distributed_training'").rc == 0


def test_files_of_settings_are_complete(host):
    found = host.check_output(f"ls {EXAMPLES}/conf").split()
    assert {"megatron_gpt_config.yaml", "megatron_llama_7B_config.yaml"} <= set(found)


def test_settings_of_a_file_are_printed(host):
    command = f"python3 {EXAMPLES}/training_orchestrator.py --config-path {EXAMPLES}/conf --cfg job"
    assert "max_steps" in host.check_output(f"cd /tmp && timeout 120 {command}")

"""Checks of the image jax-paxml: the program prints its options, and two CPU devices compute a sum."""

PYTHON = "/opt/venv/bin/python"
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/tmp"
SUM = """
import jax, jax.numpy as jnp
print(int(jax.pmap(lambda x: jax.lax.psum(x, "i"), axis_name="i")(jnp.arange(2))[0]))
"""


def test_program_prints_its_options(host):
    printed = host.run(f"cd /tmp && timeout 300 {AS_NOBODY} {PYTHON} -m paxml.main --helpshort")
    assert "--job_log_dir" in printed.stdout + printed.stderr


def test_two_cpu_devices_compute_a_sum(host):
    settings = "JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2"
    assert host.check_output(f"{settings} {PYTHON} -c %s", SUM) == "1"


def test_jax_has_the_pinned_version(host, expected):
    program = "import jax; print(jax.__version__)"
    assert host.check_output("%s -c %s", PYTHON, program) == expected.versions["jax"]

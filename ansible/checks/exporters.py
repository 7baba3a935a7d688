"""What the checks of exporters share: whether a unit is sound, when it starts, what it tells Prometheus."""

from contextlib import contextmanager


def is_enabled(host, unit):
    """enabled, disabled, static...: the word of systemd."""
    return host.run("systemctl is-enabled %s", unit).stdout.strip()


def properties(host, unit, *names):
    """name → value of what systemd knows of a unit."""
    wanted = ",".join(names)
    lines = host.check_output("systemctl show %s --property %s", unit, wanted).splitlines()
    return dict(line.split("=", 1) for line in lines)


def problems(host, *units):
    """What systemd finds wrong with unit files; "" where there is nothing."""
    run = host.run(f"systemd-analyze verify --man=no {' '.join(units)}")
    return f"{run.stdout}{run.stderr}" or ("" if run.rc == 0 else f"exit code {run.rc}")


@contextmanager
def started(host, unit):
    """A unit that runs; it is left as it was found."""
    was_active = host.run("systemctl is-active --quiet %s", unit).rc == 0
    host.check_output("systemctl start %s", unit)
    try:
        yield
    finally:
        if not was_active:
            host.check_output("systemctl stop %s", unit)


def scrape(host, port):
    """What an exporter answers; the first time, it gets a while to listen."""
    patience = "--retry 20 --retry-delay 1 --retry-connrefused --max-time 30"
    return host.check_output(f"curl --silent --show-error --fail {patience} http://127.0.0.1:{port}/metrics")

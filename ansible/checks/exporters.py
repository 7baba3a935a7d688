"""Queries for the checks of Prometheus exporters: state and validity of systemd units, metrics over HTTP."""

from contextlib import contextmanager


def is_enabled(host, unit):
    """Return the state of a unit that systemctl is-enabled prints: enabled, disabled, static or another."""
    return host.run("systemctl is-enabled %s", unit).stdout.strip()


def properties(host, unit, *names):
    """Return the named properties of a systemd unit as a dict."""
    wanted = ",".join(names)
    lines = host.check_output("systemctl show %s --property %s", unit, wanted).splitlines()
    return dict(line.split("=", 1) for line in lines)


def problems(host, *units):
    """Return the warnings and errors of systemd-analyze verify about unit files, "" if there are none."""
    run = host.run(f"systemd-analyze verify --man=no {' '.join(units)}")
    return f"{run.stdout}{run.stderr}" or ("" if run.rc == 0 else f"exit code {run.rc}")


@contextmanager
def started(host, unit):
    """Start a systemd unit for the with block; stop the unit afterwards if it was not active before."""
    was_active = host.run("systemctl is-active --quiet %s", unit).rc == 0
    host.check_output("systemctl start %s", unit)
    try:
        yield
    finally:
        if not was_active:
            host.check_output("systemctl stop %s", unit)


def scrape(host, port):
    """Return the metrics of an exporter over HTTP, retrying until the port accepts connections."""
    retries = "--retry 20 --retry-delay 1 --retry-connrefused --max-time 30"
    return host.check_output(f"curl --silent --show-error --fail {retries} http://127.0.0.1:{port}/metrics")

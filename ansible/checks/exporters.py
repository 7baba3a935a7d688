"""Queries that the checks of exporters share: state and validity of units, and metrics over HTTP."""

from contextlib import contextmanager


def is_enabled(host, unit):
    """Return the state that systemctl is-enabled prints: enabled, disabled, static or another."""
    return host.run("systemctl is-enabled %s", unit).stdout.strip()


def properties(host, unit, *names):
    """Return the given properties of a unit as a dict."""
    wanted = ",".join(names)
    lines = host.check_output("systemctl show %s --property %s", unit, wanted).splitlines()
    return dict(line.split("=", 1) for line in lines)


def problems(host, *units):
    """Return the warnings and errors of systemd-analyze verify about unit files, "" if there are none."""
    run = host.run(f"systemd-analyze verify --man=no {' '.join(units)}")
    return f"{run.stdout}{run.stderr}" or ("" if run.rc == 0 else f"exit code {run.rc}")


@contextmanager
def started(host, unit):
    """Start a unit for the block; stop it afterwards if it was not active before."""
    was_active = host.run("systemctl is-active --quiet %s", unit).rc == 0
    host.check_output("systemctl start %s", unit)
    try:
        yield
    finally:
        if not was_active:
            host.check_output("systemctl stop %s", unit)


def scrape(host, port):
    """Return the metrics of an exporter, with retries until it listens."""
    retries = "--retry 20 --retry-delay 1 --retry-connrefused --max-time 30"
    return host.check_output(f"curl --silent --show-error --fail {retries} http://127.0.0.1:{port}/metrics")

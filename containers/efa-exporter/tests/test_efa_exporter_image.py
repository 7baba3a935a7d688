"""Checks of the image efa-exporter: the service runs as an unprivileged user, and needs no Python package."""

AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent"
# Start the service, ask for a page that exists and one that does not, and end the service.
SERVED = """
import subprocess, sys, time, urllib.error, urllib.request
service = subprocess.Popen(["/usr/local/bin/efa_exporter", "--port", "19109", "--address", "127.0.0.1"])
try:
    deadline = time.monotonic() + 30
    while True:
        try:
            page = urllib.request.urlopen("http://127.0.0.1:19109/metrics", timeout=5)
            break
        except urllib.error.URLError:
            if time.monotonic() > deadline or service.poll() is not None:
                raise
            time.sleep(0.05)
    print(page.status, page.headers["Content-Type"])
    try:
        urllib.request.urlopen("http://127.0.0.1:19109/other", timeout=5)
    except urllib.error.HTTPError as error:
        print(error.code)
finally:
    service.kill()
"""


def test_page_is_served_to_prometheus(host):
    printed = host.check_output(f"timeout 60 {AS_NOBODY} /usr/bin/python3 -I -c %s", SERVED)
    assert printed.splitlines() == ["200 text/plain; charset=utf-8", "404"]


def test_image_has_no_virtual_environment(host):
    assert not host.file("/opt/venv").exists

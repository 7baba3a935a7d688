"""Checks of the routes of machines with several network cards."""

import json

import pytest

SETTINGS = ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter")


def test_settings_are_in_force_at_boot(host, expected):
    lines = host.check_output("systemd-analyze cat-config sysctl.d").splitlines()
    pairs = [line.partition("=")[::2] for line in lines]
    found = {name.strip().lstrip("-"): value.strip() for name, value in pairs}
    wanted = str(expected.variables["network_cards_reverse_path"])
    assert {name: found.get(name) for name in SETTINGS} == dict.fromkeys(SETTINGS, wanted)


def test_system_has_a_program_that_writes_routes(host, expected):
    distribution = expected.capabilities["system_distribution"]
    if distribution == "amazon":
        assert host.run("rpm --query amazon-ec2-net-utils").rc == 0
    if distribution == "ubuntu":
        run = host.run("cloud-init --version")
        version = f"{run.stdout}{run.stderr}".split()[1].partition("-")[0]
        assert [int(part) for part in version.split(".")[:2]] >= [24, 1]


@pytest.mark.needs("kernel")
def test_cards_beyond_the_first_have_their_own_routes(host):
    cards = json.loads(host.check_output("ip -json -4 address show scope global"))
    routes = json.loads(host.check_output("ip -json -4 route show default"))
    sources = {rule.get("src") for rule in json.loads(host.check_output("ip -json -4 rule show"))}
    first = min(routes, key=lambda route: route.get("metric", 0))["dev"] if routes else ""
    addresses = {
        card["ifname"]: card["addr_info"][0]["local"]
        for card in cards
        if card["ifname"] != first and host.file(f"/sys/class/net/{card['ifname']}/device").exists
    }
    assert {name: address for name, address in addresses.items() if address not in sources} == {}

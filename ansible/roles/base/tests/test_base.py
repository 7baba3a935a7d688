"""What every image has: the user for training, the locale, the time zone."""


def test_training_user(host, expected):
    variables = expected.variables
    user = host.user(variables["base_user"])
    assert user.uid == user.gid == variables["base_uid"]
    assert user.group == variables["base_user"]
    assert user.shell == variables["base_shell"]
    home = host.file(user.home)
    assert home.is_directory
    assert home.user == variables["base_user"]


def test_training_user_can_write_at_home(host, expected):
    user = expected.variables["base_user"]
    assert host.run("su - %s -c 'touch .probe && rm .probe'", user).rc == 0


def test_training_user_has_no_password(host, expected):
    assert host.user(expected.variables["base_user"]).password in ("!", "!!", "*")


def test_session_has_utf8_locale(host, expected):
    wanted = expected.variables["base_locale"]
    run = host.run("env -u LC_ALL -u LANG bash -lc 'echo $LANG; locale charmap'")
    assert run.stdout.split() == [wanted, "UTF-8"]
    assert wanted.lower().replace("-", "") in host.check_output("locale -a").lower().replace("-", "").split()


def test_session_keeps_its_own_locale(host):
    assert host.check_output("env LANG=C bash -lc 'echo $LANG'") == "C"


def test_clock_shows_the_time_zone(host, expected):
    zone = expected.variables["base_timezone"]
    assert host.file("/etc/localtime").linked_to.endswith(zone)
    assert host.check_output("date +%z") == host.check_output("TZ=%s date +%%z", zone)


def test_sudo_only_where_asked_for(host, expected):
    variables = expected.variables
    allowed = host.run("su %s -s /bin/sh -c 'sudo -n true'", variables["base_user"]).rc == 0
    assert allowed is variables["base_sudo"]
    if variables["base_sudo"]:
        assert host.run("visudo --check --strict").rc == 0

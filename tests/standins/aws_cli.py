"""Stand-in for the AWS CLI: its archive, with an installer that behaves like the vendor's.

The installer fails if a version is installed, unless run with --update, and takes any folder named after its
version for a complete installation.
"""

import shutil

from tests.standins.site import Site

ARCHIVES = "https://awscli.amazonaws.com/awscli-exe-linux"
KEY = "https://keyserver.ubuntu.com/pks/lookup?op=get&search=0xFB5DB77FD5C118B80511ADA8A6310ACC4672475C"
PROGRAM = """\
#!/bin/sh
case "$1" in
    --version) echo 'aws-cli/%s Python/3 Linux exe/stand-in' ;;
    configure) exit 1 ;;
    *) echo "stand-in: $*" >&2; exit 252 ;;
esac
"""
COMPLETER = "#!/bin/sh\nexit 0\n"
INSTALLER = """\
#!/bin/sh
set -eu
root=/usr/local/aws-cli programs=/usr/local/bin update=no
while [ $# -gt 0 ]; do
    case "$1" in
        -u|--update) update=yes ;;
        -i|--install-dir) root=$2; shift ;;
        -b|--bin-dir) programs=$2; shift ;;
        *) echo "Got an unexpected argument: $1" >&2; exit 1 ;;
    esac
    shift
done
bundle=$(cd "$(dirname "$0")" && pwd)
version=$("$bundle/dist/aws" --version | cut -d ' ' -f 1 | cut -d '/' -f 2)
here=$root/v2/$version current=$root/v2/current
if [ -L "$current" ] && [ $update = no ]; then
    echo "Found preexisting AWS CLI installation: $current." \\
        "Please rerun install script with --update flag." >&2
    exit 1
fi
if [ -d "$here" ]; then
    echo "Found same AWS CLI version: $here. Skipping install."
    exit 0
fi
mkdir -p "$here/bin" "$programs"
cp -r "$bundle/dist" "$here/dist"
for program in aws aws_completer; do ln -s "../dist/$program" "$here/bin/$program"; done
ln -snf "$here" "$current"
for program in aws aws_completer; do ln -sf "$current/bin/$program" "$programs/$program"; done
"""


def build(site: Site) -> None:
    version = site.pin("aws_cli")
    for arch in ("x86_64", "aarch64"):
        archive = site.zip(
            f"{ARCHIVES}-{arch}-{version}.zip",
            {
                "aws/README.md": "Stand-in.\n",
                "aws/dist/aws": PROGRAM % version,
                "aws/dist/aws_completer": COMPLETER,
                "aws/install": INSTALLER,
            },
        )
        site.sign(archive)
    # The server looks up the file by the path of its URL; the lock uses the whole URL.
    shutil.copy(site.key(KEY), site.url_file(KEY.partition("?")[0]))

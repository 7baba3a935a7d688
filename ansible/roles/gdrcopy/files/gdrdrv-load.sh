#!/bin/sh
# Loads the module and creates its device node, which the module does not do with every driver.
set -eu
modprobe gdrdrv
if [ ! -e /dev/gdrdrv ]; then
    major=$(awk '$2 == "gdrdrv" { print $1 }' /proc/devices)
    mknod /dev/gdrdrv c "$major" 0
fi
chmod 0666 /dev/gdrdrv

#!/bin/sh
# Exits with 0 if the machine has an NVIDIA GPU, or an NVSwitch that it must manage itself, else with 1. Reads the
# kernel's list of PCI devices, so it works without the driver.
#   nvidia-present gpu|nvswitch [FOLDER]
set -eu
wanted=$1
devices=${2:-/sys/bus/pci/devices}
found=1

for device in "$devices"/*; do
    [ -r "$device/vendor" ] || continue
    read -r vendor < "$device/vendor"
    read -r class < "$device/class"
    read -r model < "$device/device"
    case "$wanted $vendor $class $model" in
        "gpu 0x10de 0x03"*) found=0 ;;
        # The NVSwitches of these GPUs are in a switch tray of the rack, which manages them.
        "nvswitch 0x10de 0x03"*" 0x2941" | "nvswitch 0x10de 0x03"*" 0x31c2" | "nvswitch 0x10de 0x03"*" 0x31c3") exit 1 ;;
        "nvswitch 0x10de 0x0680"*) found=0 ;;
        # From the fourth generation on, NVSwitches appear as a Mellanox bridge with SW_MNG in its vital product data.
        "nvswitch 0x15b3 "*)
            if [ -r "$device/vpd" ] && grep --quiet --text SW_MNG "$device/vpd"; then
                found=0
            fi
            ;;
    esac
done
exit $found

#!/bin/sh
# Tells by its exit code whether this machine has a GPU of NVIDIA, or an NVSwitch that it has to manage itself.
# It reads what the kernel found on the bus, so the driver need not be loaded.
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
        # The switches of these GPUs are in a tray of the rack, and are managed there.
        "nvswitch 0x10de 0x03"*" 0x2941" | "nvswitch 0x10de 0x03"*" 0x31c2" | "nvswitch 0x10de 0x03"*" 0x31c3") exit 1 ;;
        "nvswitch 0x10de 0x0680"*) found=0 ;;
        # From the fourth generation on, a bridge of Mellanox stands for the switches, and says so in its data.
        "nvswitch 0x15b3 "*)
            if [ -r "$device/vpd" ] && grep --quiet --text SW_MNG "$device/vpd"; then
                found=0
            fi
            ;;
    esac
done
exit $found

#!/bin/bash
# Stand-in for the EFA installer: real options, package order and quirks, with nearly empty packages.

# shellcheck source=/dev/null
source ./env.sh # EFA_INSTALLER_VERSION, KNOWS_NGC

# shellcheck source=/dev/null
PACKAGES_FOLDER="DEBS/$(. /etc/os-release && echo "${ID^^}${VERSION_ID//./}")/$(uname -m)"
RECORD=/opt/amazon/efa_installed_packages
SKIP_KMOD=0 SKIP_LIMITS=0 MINIMAL=0 UNATTENDED=0 NGC=1

fail() {
    echo "Error: $*" >&2
    exit 1
}

LONG=debug-packages,no-verify,uninstall,yes,skip-limit-conf,skip-kmod,minimal,enable-gdr,mpi:
[ "${KNOWS_NGC}" -eq 1 ] && LONG="${LONG},build-ngc,disable-ngc,disable-build-ngc"
OPTIONS=$(getopt -o dnuylkmg --long "${LONG}" -- "$@") || exit 1
eval set -- "${OPTIONS}"
while [ "$1" != -- ]; do
    case "$1" in
    -y | --yes) UNATTENDED=1 ;;
    -l | --skip-limit-conf) SKIP_LIMITS=1 ;;
    -k | --skip-kmod) SKIP_KMOD=1 ;;
    -m | --minimal) MINIMAL=1 ;;
    --disable-ngc | --disable-build-ngc) NGC=0 ;;
    --mpi) shift ;;
    esac
    shift
done

echo "= EFA Installer Version: ${EFA_INSTALLER_VERSION} ="
[ -e common.sh ] || fail "Please cd into the installer directory."
[ "${UNATTENDED}" -eq 1 ] || fail "cannot confirm: pass --yes"
[ -d "${PACKAGES_FOLDER}" ] || fail "Unsupported operating system: no ${PACKAGES_FOLDER}"
if [ "${SKIP_KMOD}" -eq 0 ]; then
    dpkg-query --show --showformat '${Package}\n' 'linux-image-*' 2>/dev/null | grep -q '^linux-image-[0-9]' ||
        fail "unable to detect installed kernels, exiting."
fi
# On a detected NVIDIA base image, the plugin is skipped and rdma-core is kept.
[ "${KNOWS_NGC}" -eq 1 ] && [ "${NGC}" -eq 1 ] && [ -e /opt/nvidia/nvidia_entrypoint.sh ] && IN_NGC=1

is_left_out() {
    case "$1" in
    efa-config*) [ "${SKIP_LIMITS}" -eq 1 ] ;;
    efa-profile* | libfabric* | openmpi*) [ "${MINIMAL}" -eq 1 ] ;;
    efa*) [ "${SKIP_KMOD}" -eq 1 ] ;;
    libnccl-ofi*) [ "${MINIMAL}" -eq 1 ] || [ -n "${IN_NGC}" ] ;;
    *) [ -n "${IN_NGC}" ] && [ "$2" = rdma-core ] ;;
    esac
}

# Never downgrades: a newer package stays, but efa_installed_packages lists the installer's version.
has_as_new() {
    local installed
    installed=$(dpkg-query --show --showformat '${Version}' "${1%%_*}" 2>/dev/null)
    dpkg --compare-versions "$(cut -d_ -f2 <<<"$1")" le "${installed}"
}

echo "== Installing EFA dependencies =="
apt-get install -y pciutils environment-modules tcl libnl-3-200 libnl-3-dev libnl-route-3-200 libnl-route-3-dev ||
    fail "failed to install third-party dependencies, exiting"

echo "== Installing EFA packages =="
RECORDED=() RDMA=() OTHERS=()
for path in "${PACKAGES_FOLDER}"/*.deb "${PACKAGES_FOLDER}"/{rdma-core,efa-driver}/*.deb; do
    name=$(basename "${path}" .deb)
    group=$(basename "$(dirname "${path}")")
    is_left_out "${name}" "${group}" && continue
    RECORDED+=("${name}")
    has_as_new "${name}" && continue
    if [ "${group}" = rdma-core ]; then RDMA+=("./${path}"); else OTHERS+=("./${path}"); fi
done
if [ "${#RDMA[*]}" -ne 0 ]; then
    apt-get install -y --allow-downgrades "${RDMA[@]}" || fail "Failed to install packages."
fi
if [ "${#OTHERS[*]}" -ne 0 ]; then
    apt-get install -y "${OTHERS[@]}" || fail "Failed to install packages."
fi
mkdir -p /opt/amazon
cat >"${RECORD}" <<EOF
# EFA installer version: ${EFA_INSTALLER_VERSION}
# Debug packages installed: no
# Packages installed:
${RECORDED[*]}
EOF
if [ "${SKIP_KMOD}" -eq 0 ]; then
    echo "Updating boot ramdisk"
    if command -v update-initramfs; then update-initramfs -u -k all || fail "failed to generate new initramfs image"; fi
    modprobe ib_uverbs
    modprobe efa
fi
echo "EFA installation complete."

#!/bin/sh
# Stand-in for the configure script of aws-ofi-nccl: the real options, checks and errors.
set -e
prefix=/usr/local libdir='' libfabric='' cuda='' gdrcopy='' platform_aws=no symlink=yes cudart=libcudart_static.a
for word in "$@"; do
    value=${word#*=}
    case "$word" in
    --prefix=*) prefix=$value ;;
    --libdir=*) libdir=$value ;;
    --with-libfabric=*) libfabric=$value ;;
    --with-cuda=*) cuda=$value ;;
    --with-mpi=* | --with-hwloc=* | --disable-tests | --disable-werror) ;;
    --enable-cudart-dynamic) cudart=libcudart.so ;;
    --with-gdrcopy=no) ;;
    --with-gdrcopy=*) gdrcopy="-isystem $value/include" ;;
    --enable-platform-aws) platform_aws=yes ;;
    --disable-nccl-net-symlink) symlink=no ;;
    *) echo "configure: error: unrecognized option: $word" >&2 && exit 1 ;;
    esac
done

has() {
    # $1: header, $2: flags, $3: error message if it is missing
    echo "checking for $1"
    # shellcheck disable=SC2086  # flags are several words
    if ! printf '#include <%s>\nint main() { return 0; }\n' "$1" | g++ -x c++ $2 -o conftest - 2>config.log; then
        cat config.log
        echo "configure: error: $3" >&2
        exit 1
    fi
}
has rdma/fabric.h "-I$libfabric/include -L$libfabric/lib -lfabric" "NCCL OFI Plugin could not find a working Libfabric install."
has cuda_runtime.h "-isystem $cuda/include" "@missing_cuda@"
# The plugin is linked with the static library of the runtime, unless --enable-cudart-dynamic is set.
if ! ls "$cuda"/lib*/"$cudart" >/dev/null; then
    echo "configure: error: @missing_cuda@" >&2
    exit 1
fi
has hwloc.h "-lhwloc" "Could not find the hwloc library. Use --with-hwloc to provide the path to non-standard hwloc installation."
sed -e "s|@prefix@|$prefix|" -e "s|@libdir@|${libdir:-$prefix/lib}|" -e "s|@libfabric@|$libfabric|" \
    -e "s|@cuda@|$cuda|" -e "s|@platform_aws@|$platform_aws|" -e "s|@gdrcopy@|$gdrcopy|" -e "s|@symlink@|$symlink|" Makefile.in >Makefile
echo "* Platform-specific optimizations: $platform_aws"

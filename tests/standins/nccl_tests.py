"""Stand-in for the sources of the NCCL benchmarks: the real make variables, compiled with nvcc."""

from tests.standins.site import Site

URL = "https://github.com/NVIDIA/nccl-tests.git"
TOP = """\
BUILDDIR ?= $(abspath ./build)
default: src.build
src.build:
\t$(MAKE) -C src build BUILDDIR=$(BUILDDIR)
"""
MAKEFILE = """\
CUDA_HOME ?= /usr/local/cuda
NVCC = $(CUDA_HOME)/bin/nvcc
NVCC_GENCODE ?= -gencode=arch=compute_80,code=sm_80
NVCUFLAGS := $(NVCC_GENCODE)
NVLDFLAGS := -L$(CUDA_HOME)/lib64
ifneq ($(NCCL_HOME), "")
NVCUFLAGS += -I$(NCCL_HOME)/include/
NVLDFLAGS += -L$(NCCL_HOME)/lib
endif
ifeq ($(MPI), 1)
NVCUFLAGS += -DMPI_SUPPORT -I$(MPI_HOME)/include
NVLDFLAGS += -L$(MPI_HOME)/lib -L$(MPI_HOME)/lib64 -lmpi
endif
NVLDFLAGS += -lnccl
NAMES = all_gather all_reduce alltoall reduce_scatter sendrecv

build: $(NAMES:%=$(BUILDDIR)/%_perf)

$(BUILDDIR)/common.o: common.cu
\t@mkdir -p $(BUILDDIR)
\t$(NVCC) -o $@ $(NVCUFLAGS) -c $<

$(BUILDDIR)/%_perf: $(BUILDDIR)/common.o
\t$(NVCC) -o $@ $(NVCUFLAGS) $^ $(NVLDFLAGS)
"""
SOURCE = """\
// Stand-in: prints its version and that of NCCL, and measures nothing.
#include <cstdio>
#include <nccl.h>
#ifdef MPI_SUPPORT
#include <mpi.h>
#endif
int main(int count, char **words)
{
#ifdef MPI_SUPPORT
    MPI_Init(&count, &words);
#endif
    int library = 0;
    ncclGetVersion(&library);
    printf("# nccl-tests version %(version)s nccl-headers=%%d nccl-library=%%d\\n",
           NCCL_VERSION_CODE, library);
    return 1;
}
"""


def build(site: Site, *, source: str = SOURCE) -> None:
    version = site.pin("nccl_tests")
    files = {
        "Makefile": TOP,
        "src/Makefile": MAKEFILE,
        "src/common.cu": source % {"version": version},
    }
    site.git(URL, f"v{version}", files)

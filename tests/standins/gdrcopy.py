"""Stand-in for the sources of GDRCopy: the real make variables and paths, a compiled library and module.

The module includes the driver's header and needs its symbols, like the real one. The programs copy nothing.
"""

from tests.standins.site import Content, Site

URL = "https://github.com/NVIDIA/gdrcopy.git"
MAKEFILE = """\
prefix ?= /usr/local
exec_prefix ?= $(prefix)
libdir ?= $(exec_prefix)/lib
bindir ?= $(exec_prefix)/bin
includedir ?= $(prefix)/include
CUDA ?= /usr/local/cuda
VERSION := {major}.{minor}
PROGRAMS := apiperf copybw copylat sanity

all: driver lib exes

driver:
\t$(MAKE) -C src/gdrdrv

lib:
\tgcc -shared -fPIC -Iinclude -DGDRAPI_ARCH_$$(./config_arch) -Wl,-soname,libgdrapi.so.{major} \\
\t\t-o src/libgdrapi.so.$(VERSION) src/gdrapi.c
\tln -sf libgdrapi.so.$(VERSION) src/libgdrapi.so

exes: lib
\tfor name in $(PROGRAMS); do \\
\t\tg++ -Iinclude -I$(CUDA)/include -o tests/gdrcopy_$$name tests/program.cpp -Lsrc -L$(CUDA)/lib64 \\
\t\t\t-Wl,--no-as-needed -lgdrapi -lcuda || exit 1; \\
\tdone

lib_install: lib
\tinstall -D -m 0755 -t $(DESTDIR)$(libdir) src/libgdrapi.so.$(VERSION)
\tinstall -D -m 0644 -t $(DESTDIR)$(includedir) include/gdrapi.h
\tln -sf libgdrapi.so.$(VERSION) $(DESTDIR)$(libdir)/libgdrapi.so.{major}
\tln -sf libgdrapi.so.{major} $(DESTDIR)$(libdir)/libgdrapi.so

exes_install: exes
\tinstall -D -m 0755 -t $(DESTDIR)$(bindir) $(PROGRAMS:%=tests/gdrcopy_%)

.PHONY: all driver lib exes lib_install exes_install
"""
HEADER = """\
/* Stand-in. */
#define GDR_API_MAJOR_VERSION    {major}
#define GDR_API_MINOR_VERSION    {minor}
#ifdef __cplusplus
extern "C"
#endif
struct gdr *gdr_open(void);
"""
# Prints the architecture by running a program in TMPDIR, like upstream's. If that fails, the library lacks
# its copy functions.
CONFIG_ARCH = """\
#!/bin/bash
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cat > "$dir/arch.c" <<'EOF'
#include <stdio.h>
int main(void)
{
#if defined(__x86_64__)
    puts("X86");
#elif defined(__aarch64__)
    puts("ARM64");
#endif
    return 0;
}
EOF
gcc -o "$dir/arch" "$dir/arch.c" && "$dir/arch"
"""
LIBRARY = """\
#include <gdrapi.h>
struct gdr *gdr_open(void) { return 0; }
int gdr_close(void) { return -1; }
int gdr_pin_buffer(void) { return -1; }
#ifdef __x86_64__
extern int memcpy_uncached_store_avx(void);
int gdr_copy_to_mapping(void) { return memcpy_uncached_store_avx(); }
#else
int gdr_copy_to_mapping(void) { return -1; }
#endif
int gdr_copy_from_mapping(void) { return -1; }
#ifdef GDRAPI_ARCH_X86
int memcpy_uncached_store_avx(void) { return -1; }
#endif
"""
PROGRAM = """\
#include <cuda.h>
#include <gdrapi.h>
int main() { return cuInit(0) || !gdr_open(); }
"""
MODULE_MAKEFILE = """\
ifneq ($(KERNELRELEASE),)
obj-m := nv-p2p-dummy.o gdrdrv.o
ccflags-y += -I$(NVIDIA_SRC_DIR)
else
KVER ?= $(shell uname -r)
CONF_SCRIPT_DIR ?= $(PWD)/../../scripts
export NVIDIA_SRC_DIR ?= $(shell dirname $$(find /usr/src/nvidia-* -name nv-p2p.h -print -quit))
all:
\tsh $(CONF_SCRIPT_DIR)/test_gdrdrv_HAVE_VM_FLAGS_SET.sh -k $(KVER)
\t$(MAKE) -C /lib/modules/$(KVER)/build M=$(PWD) modules
endif
"""
DUMMY = """\
/* Stand-in: defines the driver's symbol, so that the module can be linked without the driver. */
#include <linux/module.h>
#include <nv-p2p.h>
int nvidia_p2p_free_page_table(struct nvidia_p2p_page_table *table) { return -EINVAL; }
EXPORT_SYMBOL(nvidia_p2p_free_page_table);
MODULE_LICENSE("Dual MIT/GPL");
"""
MODULE = """\
/* Stand-in: depends on the driver and does nothing. */
#include <linux/module.h>
#include <nv-p2p.h>
static int __init begin(void) {{ return nvidia_p2p_free_page_table(NULL) ? 0 : -EINVAL; }}
static void __exit end(void) {{ }}
module_init(begin);
module_exit(end);
MODULE_VERSION("{major}.{minor}");
MODULE_LICENSE("Dual MIT/GPL");
"""


def build(site: Site) -> None:
    build_release(site, site.pin("gdrcopy"))


def build_release(site: Site, version: str, **other: Content) -> None:
    """Serve the sources of a release in git; `module` and `library` replace one source file each."""
    major, minor, *_ = version.split(".")
    texts = {name: text.format(major=major, minor=minor) for name, text in _FORMATS.items()}
    site.git(
        URL,
        f"v{version}",
        {
            "Makefile": texts["makefile"],
            "config_arch": CONFIG_ARCH,
            "include/gdrapi.h": texts["header"],
            "src/gdrapi.c": other.get("library", LIBRARY),
            "src/gdrdrv/Makefile": MODULE_MAKEFILE,
            "src/gdrdrv/gdrdrv.c": other.get("module", texts["module"]),
            "src/gdrdrv/nv-p2p-dummy.c": DUMMY,
            "scripts/test_gdrdrv_HAVE_VM_FLAGS_SET.sh": "#!/bin/sh\ntest -d /lib/modules/$2/build\n",
            "tests/program.cpp": PROGRAM,
        },
    )


_FORMATS = {"makefile": MAKEFILE, "header": HEADER, "module": MODULE}

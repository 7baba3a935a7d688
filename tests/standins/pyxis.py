"""Stand-in for pyxis: a plugin for a real Slurm that registers pyxis' job option but starts no container."""

from tests.standins.site import Site

SOURCE = """\
/* Stand-in: registers the option of the real plugin but starts no container. */
#include <slurm/spank.h>

SPANK_PLUGIN(pyxis, 1)

static int take(int value, const char *text, int remote)
{
	return 0;
}

static struct spank_option image = {
	"container-image", "[USER@][REGISTRY#]IMAGE[:TAG]|PATH",
	"[pyxis] the image to use for the container filesystem (stand-in " PYXIS_VERSION ")", 1, 0, take
};

int slurm_spank_init(spank_t sp, int ac, char **av)
{
	return spank_option_register(sp, &image) == ESPANK_SUCCESS ? 0 : -1;
}
"""
# The variables and paths are those of the real Makefile.
MAKEFILE = """\
prefix      ?= /usr/local
libdir      ?= $(prefix)/lib
datarootdir ?= $(prefix)/share
datadir     ?= $(datarootdir)
PLUGINDIR := $(abspath $(DESTDIR)/$(libdir)/slurm)
CONFDIR   := $(abspath $(DESTDIR)/$(datadir)/pyxis)
PLUGIN := spank_pyxis.so

CPPFLAGS := -D_GNU_SOURCE -DPYXIS_VERSION=\\"%s\\" $(CPPFLAGS)
CFLAGS := -std=gnu11 -O2 -Wall -fpic $(CFLAGS)
LDFLAGS := -Wl,-zrelro -Wl,-znow $(LDFLAGS)

all: $(PLUGIN)

pyxis.o: pyxis.c
	$(CC) $(CFLAGS) $(CPPFLAGS) -c $<

$(PLUGIN): pyxis.o
	$(CC) -shared $(LDFLAGS) -o $@ spank_pyxis.lds $^

install: all
	install -d -m 755 $(PLUGINDIR) $(CONFDIR)
	install -m 644 $(PLUGIN) $(PLUGINDIR)
	echo 'required $(libdir)/slurm/$(PLUGIN)' | install -m 644 /dev/stdin $(CONFDIR)/pyxis.conf

clean:
	rm -f pyxis.o $(PLUGIN)
"""
SYMBOLS = "VERSION { { global: plugin_*; spank_plugin_version; slurm_spank_*; local: *; }; }\n"


def build(site: Site) -> None:
    version = site.pin("pyxis")
    files = {"Makefile": MAKEFILE % version, "pyxis.c": SOURCE, "spank_pyxis.lds": SYMBOLS}
    site.git("https://github.com/NVIDIA/pyxis.git", f"v{version}", files)

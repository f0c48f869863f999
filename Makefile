# SPDX-License-Identifier: Apache-2.0
#
# The one Makefile: `make help` prints the menu. Everything that is built lands under $(BUILD).
#
#	V=1		print whole commands		WERROR=0	warnings stay warnings
#	BUILD=build	where to build			SAN=address,undefined | thread
#	WITH_TORCH=auto | 0 | 1				PYTHON=, LIBTORCH= name a torch to build against
#	WITH_CUDA=auto | 0 | 1				CUDA_HOME= names the toolkit that compiles the kernels
#	WITH_BPF=auto | 0 | 1				CLANG=, BPFTOOL= name what makes programs for the kernel
#	PREFIX=/usr/local DESTDIR= LIBDIR= BINDIR=	where `make install` puts things
#
# Objects of a folder go into one internal archive (build/lib/shm.a, client.a, front.a, executor.a);
# programs and tests link those, so tests run the shipped objects. All of it is compiled as -fPIC:
# one object serves the library and the programs.

.SUFFIXES:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
comma := ,

BUILD ?= build
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
DATADIR ?= $(PREFIX)/share
PLUGINDIR ?= $(LIBDIR)/infbroker/backends

WITH_TORCH ?= auto
WITH_CUDA ?= auto
WITH_BPF ?= auto
WERROR ?= 1
SAN ?=
MUTATE ?= 0
STATS ?= 1

CC ?= cc
ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-8s %s\n'
endif

# --- sources, sorted -------------------------------------------------------------------------------

SHM_SRC := $(sort $(wildcard shm/*.c shm/device/*.c))
CLIENT_SRC := $(sort $(wildcard client/*.c))
FRONT_SRC := $(sort $(filter-out broker/main.c,$(wildcard broker/*.c broker/policy/*.c)))
EXECUTOR_SRC := $(sort $(filter-out broker/executor/main.c,$(wildcard broker/executor/*.c)))
BUILTIN_SRC := $(sort $(wildcard broker/backends/builtin/*.c)) broker/cuda/image.c
TORCH_SRC := $(sort $(filter-out %/cuda.cc,$(wildcard broker/backends/torch/*.cc)))
TORCH_CUDA_SRC := $(sort $(filter-out %/cpu.cc,$(wildcard broker/backends/torch/*.cc)))
TORCH_C_SRC := $(sort $(wildcard broker/backends/torch/*.c))
TOOL_SRC := $(sort $(wildcard tools/common/*.c))
# What needs the kernel's programs, and what stands in for it.
SHMCTL_BPF_SRC := $(addprefix tools/shmctl/,kernel.c kernel_attach.c kernel_print.c)
SHMCTL_SRC = $(sort $(filter-out $(if $(BPF),tools/shmctl/kernel_none.c,$(SHMCTL_BPF_SRC)),$(wildcard tools/shmctl/*.c))) $(TOOL_SRC)
CLASSIFY_SRC := $(sort $(wildcard tools/infclassify/*.c)) $(TOOL_SRC)
INFBENCH_SRC := $(sort $(wildcard tools/infbench/*.c))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
# Programs that the scripts in tests/ start; each is one file and becomes $(BUILD)/tests/NAME.
PROGRAM_SRC := $(filter-out %/check_main.c,$(sort $(shell grep -l '^int main' tests/adversary/*.c tests/bench/*.c \
	tests/gpu/device_load.c tests/gpu/device_loop.c tests/gpu/graphs.c tests/gpu/import.c tests/gpu/kernels.c \
	tests/gpu/tensors.c tests/gpu/tensor_ends.c tests/integ/*.c tests/stress/*.c tests/support/*.c 2>/dev/null)))
SUPPORT_SRC := $(filter-out $(PROGRAM_SRC) %/check_main.c,$(sort $(wildcard tests/support/*.c)))

# --- flags -----------------------------------------------------------------------------------------

WARN := -Wall -Wextra -Wshadow -Wvla -Wundef -Wformat=2 -Wpointer-arith -Wwrite-strings -Wimplicit-fallthrough
HARDEN := -fvisibility=hidden -fno-common -fstack-protector-strong
# Probes (shm/probes.h) may become calls while a program runs: nothing may lie below the stack pointer.
HARDEN += $(if $(filter x86_64%,$(shell $(CC) -dumpmachine)),-mno-red-zone)
LINK_HARDEN := -Wl,-z,relro,-z,now
OPT := -O2 -g
ifeq ($(SAN),)
HARDEN += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
LINK_HARDEN += -Wl,-z,defs
else
OPT := -O1 -g -fno-omit-frame-pointer -fsanitize=$(SAN)
ifneq ($(findstring undefined,$(SAN)),)
OPT += -fno-sanitize-recover=undefined
endif
ifeq ($(SAN),thread)
# gcc says of every fence that TSan does not know fences. True, and no reason to have none.
WARN += -Wno-tsan
endif
endif
ifneq ($(WERROR),0)
WARN += -Werror
endif

ALL_CPPFLAGS := -I. -Iinclude $(if $(filter 1,$(MUTATE)),-DINF_MUTATE) $(if $(filter 0,$(STATS)),-DINF_NO_STATS) $(CPPFLAGS)
ALL_CFLAGS := -std=gnu17 $(OPT) -fPIC $(HARDEN) $(WARN) -Wstrict-prototypes -Wmissing-prototypes $(CFLAGS)
ALL_CXXFLAGS := -std=c++17 $(OPT) -fPIC $(HARDEN) $(WARN) $(CXXFLAGS)
ALL_LDFLAGS := $(if $(SAN),-fsanitize=$(SAN)) $(LINK_HARDEN) $(LDFLAGS)
LINK := $(CC) $(if $(SAN),$(OPT)) -pie $(ALL_LDFLAGS)

$(BUILD)/obj/shm/%.o $(BUILD)/obj/client/%.o: ALL_CFLAGS += -Wconversion

# --- CUDA: nvcc is found, never installed; without it everything but the kernels is built --------------

CUDA_HOME ?= /usr/local/cuda
ifneq ($(WITH_CUDA),0)
NVCC := $(or $(wildcard $(CUDA_HOME)/bin/nvcc),$(shell command -v nvcc 2>/dev/null))
endif
ifeq ($(WITH_CUDA)$(NVCC),1)
$(error WITH_CUDA=1, but there is no nvcc: name its toolkit with CUDA_HOME=)
endif
FATBIN := $(if $(NVCC),$(BUILD)/obj/broker/cuda/kernels.fatbin)

# --- BPF: found, never installed; without it shmctl has the broker's statistics alone -----------------------------

CLANG ?= clang
BPFTOOL ?= $(or $(shell PATH="$$PATH:/usr/sbin:/sbin" command -v bpftool 2>/dev/null),bpftool)
BPF_MISSING :=
ifneq ($(WITH_BPF),0)
BPF_MISSING := $(strip $(if $(shell command -v $(CLANG)),,clang) $(if $(shell $(BPFTOOL) version 2>/dev/null),,bpftool) \
	$(if $(shell pkg-config --exists 'libbpf >= 1' && echo y),,libbpf-dev) \
	$(if $(shell echo '\#include <sys/sdt.h>' | $(CC) -E -x c - >/dev/null 2>&1 && echo y),,systemtap-sdt-dev))
BPF := $(if $(BPF_MISSING),,1)
endif
ifeq ($(WITH_BPF)$(BPF),1)
$(error WITH_BPF=1, but there is no $(BPF_MISSING))
endif
BPF_SKELETON := $(BUILD)/bpf/kernel.skel.h

# --- torch: found, never installed, by a plain build -------------------------------------------------

ifneq ($(WITH_TORCH),0)
TORCH_DIR := $(shell PYTHON='$(PYTHON)' LIBTORCH='$(LIBTORCH)' tools/setup/torch.sh --dir 2>/dev/null)
endif
ifeq ($(WITH_TORCH)$(TORCH_DIR),1)
$(error WITH_TORCH=1, but no torch was found: run `make deps`, or name one with PYTHON= or LIBTORCH=)
endif
TORCH_PLUGIN := $(if $(TORCH_DIR),$(BUILD)/backends/libinf-backend-torch.so)
# For CUDA devices: where libtorch has that part, and a toolkit has the runtime's headers.
CUDA_INCLUDE := $(if $(NVCC),$(wildcard $(dir $(NVCC))../include))
# libtorch's headers call the runtime, of which its wheel brings the library.
CUDART := $(firstword $(wildcard $(TORCH_DIR)/../nvidia/cu*/lib/libcudart.so.* $(TORCH_DIR)/lib/libcudart*.so.* \
	$(CUDA_HOME)/lib64/libcudart.so))
ifneq ($(and $(TORCH_DIR),$(CUDA_INCLUDE),$(CUDART),$(wildcard $(TORCH_DIR)/lib/libtorch_cuda.so)),)
TORCH_PLUGIN += $(BUILD)/backends/libinf-backend-torch-cuda.so
endif

# --- products ----------------------------------------------------------------------------------------

version_part = $(shell sed -n 's/^.define INF_VERSION_$(1) "\{0,1\}\([0-9.]*\)"\{0,1\}$$/\1/p' include/inf/version.h)
VERSION := $(call version_part,STRING)
VERSION_NODE := $(call version_part,MAJOR).$(call version_part,MINOR)
SONAME := libinfclient.so.0

objects = $(patsubst %.c,$(BUILD)/obj/%.o,$(filter %.c,$(1))) $(patsubst %.cc,$(BUILD)/obj/%.o,$(filter %.cc,$(1))) \
	  $(patsubst %.cpp,$(BUILD)/obj/%.o,$(filter %.cpp,$(1)))
unit_tests = $(patsubst tests/%.c,$(BUILD)/tests/%,$(1))
programs = $(addprefix $(BUILD)/tests/,$(notdir $(1:.c=)))

TOOLS := $(if $(SHMCTL_SRC),$(BUILD)/shmctl) $(if $(CLASSIFY_SRC),$(BUILD)/infclassify) $(if $(INFBENCH_SRC),$(BUILD)/infbench)
PRODUCTS := $(if $(wildcard broker/main.c),$(BUILD)/infbroker) \
	    $(if $(wildcard broker/executor/main.c),$(BUILD)/infbroker-executor) \
	    $(if $(CLIENT_SRC),$(BUILD)/libinfclient.so $(BUILD)/libinfclient.a $(BUILD)/libinfclient.pc) \
	    $(TOOLS) $(TORCH_PLUGIN)

.PHONY: all
all: $(PRODUCTS) ## build broker, executor, backends, library and tools (default)
ifeq ($(WITH_CUDA)$(NVCC),auto)
	@echo '  note     without nvcc: no kernels for CUDA devices (WITH_CUDA=0 silences this)'
endif
ifeq ($(WITH_BPF)$(BPF),auto)
	@echo '  note     without $(BPF_MISSING): no shmctl trace --kernel (WITH_BPF=0 silences this)'
endif
ifeq ($(WITH_TORCH)$(TORCH_DIR),auto)
	@echo '  note     without the torch backend (`make deps` fetches torch; WITH_TORCH=0 silences this)'
endif

.PHONY: help
help: ## print this menu
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F'\t' '{ printf "  %-15s %s\n", $$1, $$2 }'
	@sed -n '/^#\tV=1/,/^#\tPREFIX/s/^#//p' Makefile

# --- compile and link --------------------------------------------------------------------------------

$(BUILD)/obj/%.o: %.c
	$(say) CC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.o: %.cc $(BUILD)/.torch-dir
	$(say) CXX $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) $(ALL_CPPFLAGS) $(ALL_CXXFLAGS) -isystem $(TORCH_DIR)/include \
		-isystem $(TORCH_DIR)/include/torch/csrc/api/include -MMD -MP -c -o $@ $<

# For each architecture that this nvcc knows, and PTX for later ones.
$(FATBIN): broker/cuda/kernels.cu broker/cuda/kernels.h
	$(say) NVCC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(NVCC) -I. -Iinclude -arch=all -fatbin -Wno-deprecated-gpu-targets -o $@ broker/cuda/kernels.cu
$(BUILD)/obj/broker/cuda/image.o: $(FATBIN) $(BUILD)/.fatbin
$(BUILD)/obj/broker/cuda/image.o: ALL_CPPFLAGS += $(if $(FATBIN),-DINF_KERNELS_FATBIN='"$(abspath $(FATBIN))"')

# Types of the kernel are declared in the source: nothing is asked of the one that runs here. The C library's headers for
# this architecture are where clang does not look for another target.
BPF_ARCH := $(patsubst aarch64,arm64,$(patsubst x86_64,x86,$(shell uname -m)))
$(BUILD)/bpf/kernel.bpf.o: tools/bpf/kernel.bpf.c tools/bpf/kernel.h
	$(say) BPF $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CLANG) -g -O2 -target bpf -mcpu=v3 -D__TARGET_ARCH_$(BPF_ARCH) -Wall -Wextra -Wno-unused-parameter \
		$(if $(filter-out 0,$(WERROR)),-Werror) -I. $(shell pkg-config --cflags libbpf) \
		-isystem /usr/include/$(shell $(CC) -print-multiarch) -c -o $@ $<
$(BPF_SKELETON): $(BUILD)/bpf/kernel.bpf.o
	$(say) SKELETON $@
	$(Q)$(BPFTOOL) gen skeleton $< name kernel_bpf > $@
$(call objects,$(SHMCTL_BPF_SRC)): $(BPF_SKELETON)
$(call objects,$(SHMCTL_BPF_SRC)): ALL_CPPFLAGS += -isystem $(BUILD)/bpf $(shell pkg-config --cflags libbpf)

# Rewritten only when they change, so that what knows them is built anew then.
REMEMBERED_torch-dir := $(TORCH_DIR)
REMEMBERED_plugin-dir := $(PLUGINDIR)
REMEMBERED_fatbin := $(FATBIN)
REMEMBERED_bpf := $(BPF)
$(BUILD)/.torch-dir $(BUILD)/.plugin-dir $(BUILD)/.fatbin $(BUILD)/.bpf: $(BUILD)/.%: FORCE
	@mkdir -p $(@D); echo '$(REMEMBERED_$*)' | cmp -s - $@ || echo '$(REMEMBERED_$*)' > $@
$(BUILD)/obj/broker/executor/backend.o: $(BUILD)/.plugin-dir
$(BUILD)/obj/broker/executor/backend.o: ALL_CPPFLAGS += -DINF_PLUGIN_DIR='"$(PLUGINDIR)"'
.PHONY: FORCE
FORCE:

define archive
$(BUILD)/lib/$(1).a: $(call objects,$(2))
	$$(say) AR $$@
	$$(Q)mkdir -p $$(@D) && rm -f $$@ && ar rcs $$@ $$^
endef
$(eval $(call archive,shm,$(SHM_SRC)))
$(eval $(call archive,client,$(CLIENT_SRC)))
$(eval $(call archive,front,$(FRONT_SRC)))
$(eval $(call archive,executor,$(EXECUTOR_SRC) $(BUILTIN_SRC)))
$(eval $(call archive,support,$(SUPPORT_SRC)))

$(BUILD)/infbroker: $(call objects,broker/main.c) $(BUILD)/lib/front.a $(BUILD)/lib/shm.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $^ -luring

$(BUILD)/infbroker-executor: $(call objects,broker/executor/main.c) $(BUILD)/lib/executor.a $(BUILD)/lib/shm.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $^ -ljansson -ldl -lpthread -lm

# The same sources for CUDA are other objects.
$(BUILD)/obj/cuda/%.o: %.cc $(BUILD)/.torch-dir
	$(say) CXX '$< (cuda)'
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) $(ALL_CPPFLAGS) $(ALL_CXXFLAGS) -DINF_TORCH_CUDA -isystem $(TORCH_DIR)/include \
		-isystem $(TORCH_DIR)/include/torch/csrc/api/include -isystem $(CUDA_INCLUDE) -MMD -MP -c -o $@ $<

$(BUILD)/backends/libinf-backend-torch-cuda.so: $(patsubst %.cc,$(BUILD)/obj/cuda/%.o,$(TORCH_CUDA_SRC)) $(BUILD)/.torch-dir
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -shared $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(TORCH_DIR)/lib -Wl,-rpath,$(TORCH_DIR)/lib \
		-Wl,--no-as-needed -ltorch_cuda -Wl,--as-needed -ltorch_cpu -lc10_cuda -lc10 \
		$(CUDART) -Wl,-rpath,$(dir $(CUDART)) -lpthread

$(BUILD)/backends/libinf-backend-torch.so: $(call objects,$(TORCH_SRC) $(TORCH_C_SRC)) $(BUILD)/.torch-dir
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -shared $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(TORCH_DIR)/lib -Wl,-rpath,$(TORCH_DIR)/lib \
		-ltorch_cpu -lc10 -lpthread

$(BUILD)/$(SONAME): $(call objects,$(CLIENT_SRC)) $(BUILD)/lib/shm.a client/libinfclient.map $(BUILD)/.version-ok
	$(say) LINK $@
	$(Q)$(CC) $(if $(SAN),$(OPT)) -shared $(ALL_LDFLAGS) -Wl,-soname,$(SONAME) \
		-Wl,--version-script,client/libinfclient.map -o $@ $(filter %.o %.a,$^)

$(BUILD)/libinfclient.so: $(BUILD)/$(SONAME)
	$(Q)ln -sf $(SONAME) $@

# One relocatable object with everything but the exported calls made local, as in the shared library.
$(BUILD)/libinfclient.a: $(call objects,$(CLIENT_SRC)) $(BUILD)/lib/shm.a
	$(say) AR $@
	$(Q)ld -r -o $(BUILD)/lib/libinfclient.o $^ && objcopy --localize-hidden $(BUILD)/lib/libinfclient.o
	$(Q)rm -f $@ && ar rcs $@ $(BUILD)/lib/libinfclient.o

# The map's last node, version.h and the .pc name one release, or nothing is linked.
$(BUILD)/.version-ok: include/inf/version.h client/libinfclient.map $(BUILD)/libinfclient.pc
	@node=$$(sed -n 's/^[A-Z]*_\([0-9.]*\) *{.*/\1/p' client/libinfclient.map | tail -n 1); \
	pc=$$(sed -n 's/^Version: //p' $(BUILD)/libinfclient.pc); \
	if [ "$$node" != "$(VERSION_NODE)" ] || [ "$$pc" != "$(VERSION)" ] || \
	   [ "$(VERSION_NODE).$(call version_part,PATCH)" != "$(VERSION)" ]; then \
		echo "version.h says $(VERSION) ($(VERSION_NODE)), the map's last node $$node, the .pc $$pc" >&2; exit 1; \
	fi; mkdir -p $(@D); touch $@

# The prefix comes in at install; this one is for PKG_CONFIG_PATH=build.
$(BUILD)/libinfclient.pc: client/libinfclient.pc.in include/inf/version.h
	$(Q)mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(abspath $(BUILD))|' -e 's|@INCLUDEDIR@|$(abspath include)|' \
		-e 's|@VERSION@|$(VERSION)|' $< > $@

# Tools are linked twice: to run from the build folder, and to be installed without a path inside.
TOOL_LIBS_shmctl := -ljansson -lm $(if $(BPF),$(shell pkg-config --libs libbpf))
TOOL_LIBS_infclassify := -ljansson -ljpeg -lpthread -lm
TOOL_LIBS_infbench := -ljansson -lpthread -lm
define tool
$(BUILD)/$(1) $(BUILD)/install/$(1): $(call objects,$(2)) $(BUILD)/lib/shm.a $(BUILD)/libinfclient.so
	$$(say) LINK $$@
	$$(Q)mkdir -p $$(@D)
	$$(Q)$$(LINK) $$(if $$(findstring /install/,$$@),,-Wl$$(comma)-rpath$$(comma)'$$$$ORIGIN') -o $$@ \
		$$(filter %.o %.a,$$^) -L$(BUILD) -linfclient $$(TOOL_LIBS_$(1))
endef
$(eval $(call tool,shmctl,$(SHMCTL_SRC)))
$(eval $(call tool,infclassify,$(CLASSIFY_SRC)))
$(eval $(call tool,infbench,$(INFBENCH_SRC)))
$(BUILD)/shmctl $(BUILD)/install/shmctl: $(BUILD)/.bpf
# The resize library is a header of statics that knows nothing of our warnings.
$(BUILD)/obj/tools/infclassify/%.o: ALL_CPPFLAGS += -isystem /usr/include/stb

# --- tests ---------------------------------------------------------------------------------------------

TESTS := $(call unit_tests,$(UNIT_SRC)) $(call programs,$(PROGRAM_SRC)) $(BUILD)/tests/gpu_costs $(BUILD)/tests/fuzz_views
TEST_LIBS := $(addprefix $(BUILD)/lib/,support.a client.a front.a executor.a shm.a)
link_test = $(LINK) -o $@ $(filter %.o,$^) -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(1) \
	-luring -ljansson -ldl -lpthread -lm

.SECONDARY: $(call objects,$(UNIT_SRC) $(PROGRAM_SRC) tests/support/check_main.c)
# A unit file defines suite_NAME(); main() in tests/support/check_main.c calls it under the name test_suite().
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(BUILD)/obj/tests/support/check_main.o $(TEST_LIBS)
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(call link_test,$$(nm -g --defined-only $< | \
		sed -n 's/.* T \(suite_.*\)/-Wl,--defsym=test_suite=\1/p') $(CHECK_LIBS))

define program
$(call programs,$(1)): $(call objects,$(1)) $(TEST_LIBS)
	$$(say) LINK $$@
	$$(Q)mkdir -p $$(@D)
	$$(Q)$$(call link_test)
endef
$(foreach source,$(PROGRAM_SRC),$(eval $(call program,$(source))))

# The software driver that stands in for libcuda.so.1 in tests.
FAKECUDA_SRC := $(sort $(filter-out %/test_fakecuda.c,$(wildcard tests/fakecuda/*.c)) broker/cuda/twins.c)
FAKECUDA := $(BUILD)/tests/libfakecuda.so
FAKENVML := $(BUILD)/tests/libfakenvml.so
$(FAKECUDA): $(call objects,$(FAKECUDA_SRC)) $(BUILD)/lib/shm.a
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(if $(SAN),$(OPT)) -shared $(ALL_LDFLAGS) -o $@ $^ -lpthread
$(FAKENVML): $(call objects,tests/gpu/fake_nvml.c)
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -shared $(ALL_LDFLAGS) -o $@ $^
$(BUILD)/tests/graphs: $(call objects,broker/cuda/image.c)
# One file for each experiment.
$(BUILD)/tests/gpu_costs: $(call objects,$(sort $(wildcard tests/gpu/costs/*.c)) broker/cuda/image.c) $(TEST_LIBS)
	$(say) LINK $@
	$(Q)$(call link_test)
# All of shmctl in one process: its main() has another name there.
FUZZED_SHMCTL = $(filter-out %/shmctl/main.o,$(call objects,$(SHMCTL_SRC))) $(BUILD)/obj/fuzz/shmctl_main.o
$(BUILD)/obj/fuzz/shmctl_main.o: tools/shmctl/main.c
	$(say) CC $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) -Dmain=shmctl_main $(ALL_CFLAGS) -Wno-missing-prototypes -MMD -MP -c -o $@ $<
$(BUILD)/tests/fuzz_views: $(call objects,tests/fuzz/views.c) $(FUZZED_SHMCTL) $(TEST_LIBS)
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(call link_test) $(TOOL_LIBS_shmctl)
# Without infer, which wants _Float16: clang 14 does not know it on x86.
$(BUILD)/tests/libfuzzer_views: $(call objects,tests/fuzz/views.c) $(filter-out %/infer.o,$(FUZZED_SHMCTL)) $(BUILD)/lib/client.a \
	$(BUILD)/lib/shm.a
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(OPT) -fsanitize=fuzzer -o $@ $^ -ljansson -ldl -lpthread -lm
$(BUILD)/tests/kernels: $(call objects,broker/cuda/twins.c broker/executor/values.c)
$(BUILD)/tests/test_fakecuda: $(call objects,tests/fakecuda/test_fakecuda.c) $(BUILD)/lib/shm.a
	$(say) LINK $@
	$(Q)$(LINK) -o $@ $^ -ldl -lpthread

BENCHES := $(call programs,$(wildcard tests/bench/*.c)) $(BUILD)/tests/idlers

CHECK_LIBS = $(shell pkg-config --libs check)


.PHONY: tests
tests: all $(TESTS) $(FAKECUDA) $(FAKENVML) $(BUILD)/tests/test_fakecuda ## build all tests, benches and hammers


# --- the Python package: for tests, benches and a look (PYTHONPATH=build/python); users let pip build it -----

VENV_PYTHON = $(shell tools/setup/venv.sh --python python 2>/dev/null)
PYTHON_FILES := $(sort $(wildcard client/python/*.py client/python/*.toml client/python/core/* client/python/infclient/*.py*))

.PHONY: python python-package
python: ## the Python package into build/python, with a virtual environment to try it in
	@tools/setup/venv.sh python
	@$(MAKE) --no-print-directory $(JOBS) python-package
# Nothing where the environment cannot be had: the tests then skip by name.
python-package: $(if $(VENV_PYTHON),$(BUILD)/python/.built)

$(BUILD)/python/.built: $(PYTHON_FILES) $(BUILD)/libinfclient.a
	$(say) PIP $(@D)
	$(Q)rm -rf $(@D) && mkdir -p $(@D)
	$(Q)INFCLIENT_LIBRARY=$(abspath $(BUILD)/libinfclient.a) INFCLIENT_BUILD=$(abspath $(BUILD)/wheel) \
		CC='$(CC)' CFLAGS='$(if $(SAN),$(OPT)) $(if $(filter-out 0,$(WERROR)),-Werror)' LDFLAGS='$(if $(SAN),-fsanitize=$(SAN))' \
		$(VENV_PYTHON) -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation --no-index \
		--target $(@D) ./client/python && touch $@

# --- what people type ------------------------------------------------------------------------------------

# Deps may install a compiler or torch: everything after it happens in a make that looks anew.
JOBS = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
ASAN := BUILD=$(BUILD)/asan SAN=address,undefined WITH_TORCH=0 WITH_CUDA=0 WITH_BPF=0
TSAN := BUILD=$(BUILD)/tsan SAN=thread WITH_TORCH=0 WITH_CUDA=0 WITH_BPF=0
MUTATED := BUILD=$(BUILD)/mutate MUTATE=1 WITH_TORCH=0 WITH_CUDA=0 WITH_BPF=0
UNCOUNTED := BUILD=$(BUILD)/nostats STATS=0 WITH_TORCH=0 WITH_CUDA=0 WITH_BPF=0
export BUILD CC CXX

.PHONY: deps
deps: ## install what building and testing needs and this machine lacks (apt, torch)
	@WITH_TORCH=$(WITH_TORCH) tools/setup/apt.sh
ifneq ($(WITH_TORCH),0)
	@PYTHON='$(PYTHON)' LIBTORCH='$(LIBTORCH)' tools/setup/torch.sh
endif

.PHONY: run
run: all ## a broker from the build folder: builtin models, private socket, log to the terminal
	@mkdir -p -m 700 $(BUILD)/run
	@echo "  export INFBROKER_SOCKET=$(abspath $(BUILD))/run/socket   # for clients in another terminal"
	@exec $(BUILD)/infbroker --builtin --verbose --socket $(abspath $(BUILD))/run/socket $(ARGS)

.PHONY: demo
demo: deps ## classify real photographs through a broker, then measure it (IMAGE=my.jpg, ROUNDS=3)
	@$(MAKE) --no-print-directory $(JOBS) all floor
	@IMAGE='$(IMAGE)' ROUNDS='$(ROUNDS)' tools/demo/demo.sh

.PHONY: case-study
case-study: deps ## the table of the demo at full length (ROUNDS=9)
	@$(MAKE) --no-print-directory $(JOBS) all floor
	@ROUNDS='$(or $(ROUNDS),9)' tools/demo/demo.sh --table-only

.PHONY: floor
floor: $(call programs,$(wildcard tests/bench/plugin_loop.c))

.PHONY: model
model: ## export the demo's network to build/demo/models
	@tools/demo/export.sh

.PHONY: check
check: deps ## every test: sanitizers, both loops, the real model; at most 25 minutes (R=name: some rows)
	@WITH_BPF='$(WITH_BPF)' tools/setup/apt.sh check
	@tools/setup/venv.sh python
	@tools/setup/venv.sh schemas
	@tools/setup/venv.sh cuda
	@$(MAKE) --no-print-directory $(JOBS) tests python-package
	@$(MAKE) --no-print-directory $(JOBS) $(ASAN) tests python-package
	@$(MAKE) --no-print-directory $(JOBS) $(TSAN) tests
	@$(MAKE) --no-print-directory $(JOBS) $(MUTATED) tests
	@WITH_TORCH='$(WITH_TORCH)' PYTHON='$(PYTHON)' LIBTORCH='$(LIBTORCH)' tests/run.sh full

.PHONY: fuzz
fuzz: ## statistics files that hold anything, through shmctl, by libFuzzer (needs clang; SECS=60)
	@$(MAKE) --no-print-directory $(JOBS) BUILD=$(BUILD)/fuzz CC=clang SAN=address,undefined,fuzzer-no-link WITH_TORCH=0 WITH_CUDA=0 WITH_BPF=0 \
		CPPFLAGS=-DINF_LIBFUZZER $(BUILD)/fuzz/tests/libfuzzer_views
	@mkdir -p $(BUILD)/fuzz/corpus
	$(BUILD)/fuzz/tests/libfuzzer_views -max_total_time=$(or $(SECS),60) -max_len=81 -close_fd_mask=2 $(BUILD)/fuzz/corpus

.PHONY: check-quick
check-quick: ## what to run after each edit: units and integration, about a minute
	@$(MAKE) --no-print-directory $(JOBS) tests
	@WITH_TORCH='$(WITH_TORCH)' PYTHON='$(PYTHON)' LIBTORCH='$(LIBTORCH)' tests/run.sh quick

.PHONY: check-includes check-headers check-abi
check-includes: ## the direction of includes
	@tests/check-includes.sh
check-headers: ## each header compiles alone, the public ones as C99, C11 and C++17
	@tests/check-headers.sh
check-abi: all ## exported symbols against the golden list, man pages, library dependencies
	@tests/check-abi.sh

.PHONY: check-gpu bench-gpu
bench-gpu: ## what the CUDA device of this machine charges and the broker adds, 10 minutes (DRY=1: on the software driver; B=E5: some)
	@$(MAKE) --no-print-directory $(JOBS) tests
	@PYTHON='$(PYTHON)' LIBTORCH='$(LIBTORCH)' python3 tests/gpu/bench.py --build $(BUILD) $(if $(DRY),--dry) $(if $(B),--only '$(B)')
check-gpu: ## kernels and models on the CUDA device of this machine, 10 minutes (DRY=1: on the software driver)
	@$(MAKE) --no-print-directory $(JOBS) tests
	@$(if $(DRY),,DRIVER=libcuda.so.1 SET_SECONDS=570) CUDA_HOME='$(CUDA_HOME)' tests/run-set.sh gpu
	@$(if $(DRY),:,nvidia-smi -L >/dev/null 2>&1 || echo "There is no GPU here: NOTHING RAN ON A DEVICE (make check-gpu DRY=1: on the software driver)")

.PHONY: asan ubsan tsan
asan: ## units and integration under ASan and UBSan (T=name: some)
	@$(MAKE) --no-print-directory $(JOBS) $(ASAN) tests
	@BUILD=$(BUILD)/asan tests/run-set.sh unit integ
ubsan: ## the same under UBSan alone
	@$(MAKE) --no-print-directory $(JOBS) BUILD=$(BUILD)/ubsan SAN=undefined WITH_TORCH=0 tests
	@BUILD=$(BUILD)/ubsan tests/run-set.sh unit integ
tsan: ## units, and the threads of library and executor, under TSan
	@$(MAKE) --no-print-directory $(JOBS) $(TSAN) tests
	@R=tsan tests/run.sh full

.PHONY: adversary stress soak
adversary: ## hostile clients against an ASan broker, 10^6 flips on each loop
	@$(MAKE) --no-print-directory $(JOBS) $(ASAN) tests
	@for loop in io_uring epoll; do \
		INF_LOOP=$$loop INF_LONG=1 TEST_TIMEOUT=7200 BUILD=$(BUILD)/asan tests/run-set.sh adversary || exit 1; done
stress: ## kills under load, parked round trips, removed fences
	@$(MAKE) --no-print-directory $(JOBS) $(MUTATED) tests
	@INF_LONG=1 TEST_TIMEOUT=3600 BUILD=$(BUILD)/mutate tests/run-set.sh stress
	@$(MAKE) --no-print-directory $(JOBS) tests
	@CLIENT_KILLS=1000 EXECUTOR_KILLS=102 FRONT_KILLS=20 TEST_TIMEOUT=3600 T=tensors tests/run-set.sh gpu

soak: ## 10^8 parked round trips on one core, the front's spin budget swept; about an hour (N=round trips)
	@$(MAKE) --no-print-directory $(JOBS) tests
	@tests/stress/soak.sh $(or $(N),100000000)

.PHONY: bench bench-peers bench-web
bench: deps ## every figure beside its floor, 10 minutes (B=ring: some rows; QUICK=1: 90 seconds)
	@WITH_BPF='$(WITH_BPF)' tools/setup/apt.sh check
	@tools/setup/venv.sh plot
	@tools/setup/venv.sh python
	@$(MAKE) --no-print-directory $(JOBS) all python-package $(BENCHES) $(FAKECUDA)
	@$(MAKE) --no-print-directory $(JOBS) $(UNCOUNTED) all
	@python3 tests/bench/bench.py --build $(BUILD) $(if $(B),--only '$(B)') $(if $(filter 1,$(QUICK)),--quick)
bench-peers: deps ## the broker beside ZeroMQ, nng, iceoryx, Triton and others, 15 minutes (B=triton: some)
	@tools/setup/venv.sh peers
	@$(MAKE) --no-print-directory $(JOBS) all
	@tests/bench/peers/build.sh
	@python3 tests/bench/peers.py --build $(BUILD) $(if $(B),--only '$(B)') $(if $(filter 1,$(QUICK)),--quick)

bench-web: deps ## an image service of 4 Python workers with and without a broker, 4 minutes (QUICK=1: one)
	@tools/setup/venv.sh python
	@$(MAKE) --no-print-directory $(JOBS) all python-package
	@$(VENV_PYTHON) tests/bench/web.py --build $(BUILD) $(if $(filter 1,$(QUICK)),--quick)

.PHONY: lint
lint: ## forbidden calls, licence tags, scripts, formatting; with TIDY=1 clang-tidy
	@tests/lint.sh

# --- install -----------------------------------------------------------------------------------------------

D := $(DESTDIR)
MAN_PAGES := $(sort $(wildcard client/man/* broker/man/* tools/*/*.1 tools/*/man/*))
HEADERS := client.h device.h dlpack.h types.h version.h backend.h
# A page with several names is one file and links to it, here as well as installed.
installed_page = $(D)$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(notdir $(page))
UNITS := infbroker.socket infbroker.service
# Where each shell looks for what completes a program, by the shell's name.
completion_bash := bash-completion/completions/shmctl
completion_zsh := zsh/site-functions/_shmctl
completion_fish := fish/vendor_completions.d/shmctl.fish
SHELLS := bash zsh fish
installed_units = $(addprefix $(D)$(UNITDIR)/,$(UNITS)) $(D)$(SYSUSERSDIR)/infbroker.conf

.PHONY: install
install: all $(patsubst $(BUILD)/%,$(BUILD)/install/%,$(TOOLS)) ## DESTDIR=, PREFIX=/usr/local, LIBDIR=, BINDIR=
	install -d $(D)$(BINDIR) $(D)$(LIBDIR)/pkgconfig $(D)$(PLUGINDIR) $(D)$(INCLUDEDIR)/inf $(D)$(UNITDIR)
	install -m 755 $(BUILD)/infbroker $(BUILD)/infbroker-executor $(patsubst $(BUILD)/%,$(BUILD)/install/%,$(TOOLS)) $(D)$(BINDIR)
	install -m 755 $(BUILD)/$(SONAME) $(D)$(LIBDIR)
	ln -sf $(SONAME) $(D)$(LIBDIR)/libinfclient.so
	install -m 644 $(BUILD)/libinfclient.a $(D)$(LIBDIR)
	install -m 644 $(addprefix include/inf/,$(HEADERS)) $(D)$(INCLUDEDIR)/inf
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' client/libinfclient.pc.in > $(D)$(LIBDIR)/pkgconfig/libinfclient.pc
	$(if $(TORCH_PLUGIN),install -m 755 $(TORCH_PLUGIN) $(D)$(PLUGINDIR))
	$(foreach unit,$(UNITS),sed -e 's|@BINDIR@|$(BINDIR)|' broker/systemd/$(unit) > $(D)$(UNITDIR)/$(unit) &&) :
	install -D -m 644 broker/systemd/infbroker.sysusers $(D)$(SYSUSERSDIR)/infbroker.conf
	$(foreach shell,$(SHELLS),install -d $(dir $(D)$(DATADIR)/$(completion_$(shell))) && \
		$(BUILD)/shmctl completion $(shell) > $(D)$(DATADIR)/$(completion_$(shell)) &&) :
	install -d $(foreach part,$(sort $(suffix $(MAN_PAGES))),$(D)$(MANDIR)/man$(subst .,,$(part)))
	$(foreach page,$(MAN_PAGES),if [ -L $(page) ]; then cp -Pf $(page) $(installed_page); else install -m 644 $(page) $(installed_page); fi &&) :

.PHONY: uninstall
uninstall: ## takes away what install put there
	rm -f $(addprefix $(D)$(BINDIR)/,infbroker infbroker-executor $(notdir $(TOOLS)))
	rm -f $(addprefix $(D)$(LIBDIR)/,$(SONAME) libinfclient.so libinfclient.a pkgconfig/libinfclient.pc)
	rm -f $(addprefix $(D)$(INCLUDEDIR)/inf/,$(HEADERS)) $(installed_units)
	rm -f $(foreach page,$(MAN_PAGES),$(installed_page)) $(foreach shell,$(SHELLS),$(D)$(DATADIR)/$(completion_$(shell)))
	rm -f $(addprefix $(D)$(PLUGINDIR)/,libinf-backend-torch.so libinf-backend-torch-cuda.so)
	-rmdir $(D)$(PLUGINDIR) $(D)$(LIBDIR)/infbroker $(D)$(INCLUDEDIR)/inf 2>/dev/null || :

.PHONY: clean
clean: ## remove the build folder
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

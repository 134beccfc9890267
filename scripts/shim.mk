# SPDX-License-Identifier: Apache-2.0
#
# One engine, linked with libwasmshim.a; scripts/shim.sh says how to call it.

# Two directories may have one name.
OBJ ?= build/engine/$(NAME)-$(firstword $(shell echo $(DIR) | cksum))
# Where wasm_shim.h is: an engine may be built with an older one.
INCLUDE ?= include
OUTDIR ?= dist
OUT := $(OUTDIR)/containerd-shim-$(NAME)-v1

-include $(DIR)/engine.mk

SOURCES := $(wildcard $(DIR)/*.c $(DIR)/*.cc $(DIR)/*.cpp)
OBJECTS := $(SOURCES:$(DIR)/%=$(OBJ)/%.o)
# Sources from elsewhere, as engine.mk names them.
MORE_OBJECTS := $(foreach f,$(ENGINE_SOURCES),$(OBJ)/more/$(notdir $(f)).o)
vpath %.c $(sort $(dir $(ENGINE_SOURCES)))
HAS_CXX := $(filter %.cc %.cpp,$(SOURCES))
FLAGS := -O2 -Wall -Wextra -fno-pie -ffunction-sections -fdata-sections -I$(INCLUDE)
# Static, because the binary is executed in the container's empty root; at a
# fixed address, because then no page has to be relocated and made private.
# The build id tells artifacts of this binary from those of another.
LINK := -static -no-pie -s -Wl,--gc-sections -Wl,--build-id

# What everything is compiled and linked with. The file is as old as the last
# change of that: two libraries for one engine are not mixed up.
FLAGS_FILE := $(OBJ)/flags
FLAGS_NOW := $(strip $(FLAGS) $(ENGINE_CFLAGS) $(ENGINE_CXXFLAGS) $(ENGINE_SOURCES_CFLAGS) $(CFLAGS) $(CXXFLAGS) $(LINK) $(LDFLAGS) $(ENGINE_LIBS))
ifneq ($(file <$(FLAGS_FILE)),$(FLAGS_NOW))
$(shell mkdir -p $(OBJ))
$(file >$(FLAGS_FILE),$(FLAGS_NOW))
endif

# Copied, because a linker writes its output in small pieces: the page cache
# then holds the copy in larger ones, which take fewer faults to map. Measured:
# a third off the time from exec to exit of a small guest.
$(OUT): $(OBJECTS) $(MORE_OBJECTS) build/libwasmshim.a $(wildcard $(DIR)/engine.mk) $(FLAGS_FILE) scripts/shim.mk
	@nm $(OBJECTS) | grep -q ' T main$$' && nm $(OBJECTS) | grep -q ' U wasm_shim_main$$' || { \
		echo "$(DIR): no main() that calls wasm_shim_main(): end a source with WASM_SHIM_MAIN(engine), where engine is your wasm_shim_engine" >&2; exit 1; }
	mkdir -p $(@D)
	$(if $(HAS_CXX),$(CXX),$(CC)) $(LINK) $(LDFLAGS) -o $(OBJ)/linked $(OBJECTS) $(MORE_OBJECTS) build/libwasmshim.a $(ENGINE_LIBS)
	cp $(OBJ)/linked $@.new
	rm $(OBJ)/linked
	mv $@.new $@

$(OBJ)/%.c.o: $(DIR)/%.c scripts/shim.mk $(wildcard $(DIR)/engine.mk) $(FLAGS_FILE)
	mkdir -p $(@D)
	$(CC) -std=gnu11 $(FLAGS) $(ENGINE_CFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(OBJ)/%.cc.o: $(DIR)/%.cc scripts/shim.mk $(wildcard $(DIR)/engine.mk) $(FLAGS_FILE)
	mkdir -p $(@D)
	$(CXX) -std=c++17 $(FLAGS) $(ENGINE_CXXFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

$(OBJ)/%.cpp.o: $(DIR)/%.cpp scripts/shim.mk $(wildcard $(DIR)/engine.mk) $(FLAGS_FILE)
	mkdir -p $(@D)
	$(CXX) -std=c++17 $(FLAGS) $(ENGINE_CXXFLAGS) $(CXXFLAGS) -MMD -MP -c -o $@ $<

$(OBJ)/more/%.c.o: %.c scripts/shim.mk $(wildcard $(DIR)/engine.mk) $(FLAGS_FILE)
	mkdir -p $(@D)
	$(CC) $(FLAGS) $(ENGINE_CFLAGS) $(ENGINE_SOURCES_CFLAGS) $(CFLAGS) -c -o $@ $<

-include $(OBJECTS:.o=.d)

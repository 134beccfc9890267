# SPDX-License-Identifier: Apache-2.0
#
# find_package(WasmShim): the target WasmShim::wasmshim and the function
# wasm_shim_add_shim. Everything is found from this file's own place.

get_filename_component(WASMSHIM_PREFIX "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(WASMSHIM_LIBRARY "${WASMSHIM_PREFIX}/lib/libwasmshim.a")
if(EXISTS "${WASMSHIM_PREFIX}/bin/wasmshim-test")
    set(WASMSHIM_TEST "${WASMSHIM_PREFIX}/bin/wasmshim-test")
endif()

if(NOT TARGET WasmShim::wasmshim)
    add_library(WasmShim::wasmshim INTERFACE IMPORTED)
    set_target_properties(WasmShim::wasmshim PROPERTIES
        INTERFACE_INCLUDE_DIRECTORIES "${WASMSHIM_PREFIX}/include"
        INTERFACE_COMPILE_OPTIONS "-fno-pie"
        INTERFACE_LINK_LIBRARIES "${WASMSHIM_LIBRARY}"
        INTERFACE_LINK_OPTIONS "-static;-no-pie;-Wl,--build-id")
endif()

include("${CMAKE_CURRENT_LIST_DIR}/WasmShimAddShim.cmake")

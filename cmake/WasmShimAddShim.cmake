# SPDX-License-Identifier: Apache-2.0
#
# wasm_shim_add_shim(NAME SOURCES FILE... [LIBRARIES LIBRARY...])
#
# Adds the executable containerd-shim-NAME-v1: the engine in FILE..., C or C++,
# linked with libwasmshim and with LIBRARY... Where tests are enabled and the
# engine test kit is at hand, it adds the test containerd-shim-NAME-v1.engine,
# which runs the engine in real containers and needs root.
#
# Static, because the binary is executed in the container's empty root; at a
# fixed address, because then no page has to be relocated and made private.

function(wasm_shim_add_shim name)
    cmake_parse_arguments(ARG "" "" "SOURCES;LIBRARIES" ${ARGN})
    if(NOT ARG_SOURCES)
        message(FATAL_ERROR "wasm_shim_add_shim(${name}): no SOURCES")
    endif()
    if(NOT name MATCHES "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
        message(FATAL_ERROR "wasm_shim_add_shim(${name}): a shim's name has lower-case letters, digits and '-'")
    endif()
    set(target containerd-shim-${name}-v1)
    add_executable(${target} ${ARG_SOURCES})
    target_link_libraries(${target} PRIVATE ${ARG_LIBRARIES} WasmShim::wasmshim)
    target_link_options(${target} PRIVATE -s -Wl,--gc-sections)
    if(WASMSHIM_LIBRARY)
        set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${WASMSHIM_LIBRARY})
    endif()
    if(BUILD_TESTING AND WASMSHIM_TEST)
        add_test(NAME ${target}.engine COMMAND ${WASMSHIM_TEST} $<TARGET_FILE:${target}>)
    endif()
endfunction()

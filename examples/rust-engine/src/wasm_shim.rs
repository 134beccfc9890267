// SPDX-License-Identifier: Apache-2.0

//! What this engine uses of include/wasm_shim.h, version 1.0. The names are the
//! header's, and so is what they mean.

use std::ffi::{c_char, c_int, c_void};

pub const ABI_MAJOR: u32 = 1;
pub const ABI_MINOR: u32 = 0;
pub const OK: i32 = 0;
pub const ERROR: i32 = 1;
pub const ERROR_LOAD: i32 = 2;
pub const ERROR_COMPILE: i32 = 3;
pub const ERROR_TRAP: i32 = 4;
pub const KIND_MODULE: u32 = 1;

#[repr(C)]
pub struct Context {
    opaque: [u8; 0],
}

#[repr(C)]
pub struct Engine {
    pub size: usize,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub kinds: u32,
    pub stop_deadline_ms: u32,
    pub default_log_level: u32,
    pub no_setup_logger: u32,
    pub name: *const c_char,
    pub shim_name: *const c_char,
    pub version: *const c_char,
    pub revision: *const c_char,
    pub layer_types: *const *const c_char,
    pub options: *const *const c_void,
    pub cache_key: *const c_char,
    pub user_data: *mut c_void,
    pub can_handle: Option<extern "C" fn(*mut Context, *mut c_void) -> i32>,
    pub run_wasi: Option<extern "C" fn(*mut Context, *mut i32, *mut c_void) -> i32>,
    pub stop: Option<extern "C" fn(i32, *mut c_void) -> i32>,
    pub compile: Option<extern "C" fn(*mut Context, *mut c_void) -> i32>,
}

extern "C" {
    pub fn wasm_shim_main(argc: c_int, argv: *mut *mut c_char, engine: *const Engine) -> c_int;
    pub fn wasm_shim_set_error(ctx: *mut Context, message: *const c_char);
    pub fn wasm_shim_args(ctx: *const Context, list: *mut *const *const c_char) -> usize;
    pub fn wasm_shim_env(ctx: *const Context, list: *mut *const *const c_char) -> usize;
    pub fn wasm_shim_entry_func(ctx: *const Context) -> *const c_char;
    pub fn wasm_shim_layer_bytes(ctx: *mut Context, index: usize, size: *mut usize) -> *const u8;
    pub fn wasm_shim_preopen_count(ctx: *const Context) -> usize;
    pub fn wasm_shim_preopen_host(ctx: *const Context, index: usize) -> *const c_char;
    pub fn wasm_shim_preopen_guest(ctx: *const Context, index: usize) -> *const c_char;
}

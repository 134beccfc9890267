// SPDX-License-Identifier: Apache-2.0

//! An engine in Rust: wasmi, an interpreter, with WASI preview 1.

#![no_main]

mod wasm_shim;

use std::error::Error;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::io;

use wasm_shim::{Context, Engine};
use wasmi::{Linker, Module, Store};
use wasmi_wasi::{add_to_linker, WasiCtx, WasiCtxBuilder};

/// Why a guest did not run to its end: a status, and a sentence for the user.
struct Failure(i32, String);

fn failed<E: std::fmt::Display>(status: i32) -> impl Fn(E) -> Failure {
    move |e| Failure(status, e.to_string())
}

/// The strings of one of the context's lists, which ends with a NULL.
fn strings(get: unsafe extern "C" fn(*const Context, *mut *const *const c_char) -> usize, ctx: *const Context) -> Vec<String> {
    let mut list = std::ptr::null();
    let count = unsafe { get(ctx, &mut list) };
    (0..count).map(|i| text(unsafe { *list.add(i) })).collect()
}

fn text(s: *const c_char) -> String {
    unsafe { CStr::from_ptr(s) }.to_string_lossy().into_owned()
}

fn wasi(ctx: *const Context) -> Result<WasiCtx, Box<dyn Error>> {
    let mut b = WasiCtxBuilder::new();
    b.inherit_stdio();
    b.args(&strings(wasm_shim::wasm_shim_args, ctx))?;
    for kv in strings(wasm_shim::wasm_shim_env, ctx) {
        if let Some((key, value)) = kv.split_once('=') {
            b.env(key, value)?;
        }
    }
    for i in 0..unsafe { wasm_shim::wasm_shim_preopen_count(ctx) } {
        let host = text(unsafe { wasm_shim::wasm_shim_preopen_host(ctx, i) });
        let guest = text(unsafe { wasm_shim::wasm_shim_preopen_guest(ctx, i) });
        let dir = wasmi_wasi::Dir::open_ambient_dir(host, wasmi_wasi::ambient_authority())?;
        b.preopened_dir(dir, guest)?;
    }
    Ok(b.build())
}

fn run(ctx: *mut Context) -> Result<i32, Failure> {
    let mut size = 0;
    let bytes = unsafe { wasm_shim::wasm_shim_layer_bytes(ctx, 0, &mut size) };
    if bytes.is_null() {
        return Err(Failure(wasm_shim::ERROR_LOAD, io::Error::last_os_error().to_string()));
    }
    let code = unsafe { std::slice::from_raw_parts(bytes, size) };
    let engine = wasmi::Engine::default();
    let module = Module::new(&engine, code).map_err(failed(wasm_shim::ERROR_COMPILE))?;
    let mut store = Store::new(&engine, wasi(ctx).map_err(failed(wasm_shim::ERROR))?);
    let mut linker = Linker::new(&engine);
    add_to_linker(&mut linker, |wasi: &mut WasiCtx| wasi).map_err(failed(wasm_shim::ERROR))?;
    // Runs no code of the guest's but its start section.
    let instance = linker.instantiate_and_start(&mut store, &module).map_err(failed(wasm_shim::ERROR_LOAD))?;
    let name = text(unsafe { wasm_shim::wasm_shim_entry_func(ctx) });
    let entry = instance.get_typed_func::<(), ()>(&store, &name).map_err(failed(wasm_shim::ERROR_LOAD))?;
    match entry.call(&mut store, ()) {
        Ok(()) => Ok(0),
        Err(e) => e.i32_exit_status().ok_or_else(|| Failure(wasm_shim::ERROR_TRAP, e.to_string())),
    }
}

/// In a process of the container. A panic aborts: it cannot reach C.
extern "C" fn run_wasi(ctx: *mut Context, exit_code: *mut i32, _: *mut c_void) -> i32 {
    match run(ctx) {
        Ok(code) => {
            unsafe { *exit_code = code };
            wasm_shim::OK
        }
        Err(Failure(status, why)) => {
            let why = CString::new(why.replace('\0', " ")).unwrap();
            unsafe { wasm_shim::wasm_shim_set_error(ctx, why.as_ptr()) };
            status
        }
    }
}

#[no_mangle]
pub extern "C" fn main(argc: c_int, argv: *mut *mut c_char) -> c_int {
    let engine = Engine {
        size: std::mem::size_of::<Engine>(),
        abi_major: wasm_shim::ABI_MAJOR,
        abi_minor: wasm_shim::ABI_MINOR,
        kinds: wasm_shim::KIND_MODULE,
        name: c"rust-engine".as_ptr(),
        version: c"0.1.0".as_ptr(),
        run_wasi: Some(run_wasi),
        ..unsafe { std::mem::zeroed() }
    };
    unsafe { wasm_shim::wasm_shim_main(argc, argv, &engine) }
}

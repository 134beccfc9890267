// SPDX-License-Identifier: Apache-2.0

//! The functions of include/wasmshim_wasmtime.h.

use crate::clock::Clock;
use crate::streams::Standard;
use crate::{client, component, flags, initialize, net, p2, p3};
use std::ffi::{CStr, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use wasmshim_wasi::errno::Errno;
use wasmshim_wasi::files::{Scope, open_dir};
use wasmshim_wasi::memory::Memory;
use wasmshim_wasi::network::Policy;
use wasmshim_wasi::p1::Guest;
use wasmtime::component::{Component, ComponentExportIndex, Val};
use wasmtime::{Caller, Config, Engine, Extern, Linker};
use wasmtime_c_api::{
    WasmtimeStoreContextMut, WasmtimeStoreData, wasi_config_t, wasm_byte_vec_t, wasm_config_t, wasm_engine_t,
    wasmtime_component_export_index_t, wasmtime_component_linker_t, wasmtime_component_t, wasmtime_error_t,
    wasmtime_linker_t,
};
use wasmtime_wasi::WasiCtxBuilder;

/// The one field of a handle, which is private. That it is of this type, no compiler
/// says: that is why Cargo.toml pins one version.
///
/// # Safety
///
/// Handle is a struct in C's order, or a transparent one, and Field its one field.
pub unsafe fn field<Handle, Field>(handle: &mut Handle) -> &mut Field {
    const {
        assert!(size_of::<Handle>() == size_of::<Field>());
        assert!(align_of::<Handle>() == align_of::<Field>());
    }
    // SAFETY: the field is where the struct is.
    unsafe { &mut *std::ptr::from_mut(handle).cast() }
}

fn linker_of(linker: &mut wasmtime_linker_t) -> &mut Linker<WasmtimeStoreData> {
    // SAFETY: crates/c-api/src/linker.rs of the pinned version.
    unsafe { field(linker) }
}

fn component_linker_of(
    linker: &mut wasmtime_component_linker_t,
) -> &mut wasmtime::component::Linker<WasmtimeStoreData> {
    // SAFETY: crates/c-api/src/component/linker.rs of the pinned version.
    unsafe { field(linker) }
}

pub fn component_of(component: &mut wasmtime_component_t) -> &mut Component {
    // SAFETY: crates/c-api/src/component/component.rs of the pinned version.
    unsafe { field(component) }
}

fn export_of(export: &mut wasmtime_component_export_index_t) -> &mut ComponentExportIndex {
    // SAFETY: crates/c-api/src/component/component.rs of the pinned version.
    unsafe { field(export) }
}

fn config_of(config: &mut wasm_config_t) -> &mut Config {
    // SAFETY: crates/c-api/src/config.rs of the pinned version.
    unsafe { field(config) }
}

fn engine_of(engine: &mut wasm_engine_t) -> &Engine {
    // SAFETY: crates/c-api/src/engine.rs of the pinned version.
    unsafe { field(engine) }
}

fn builder_of(config: &mut wasi_config_t) -> &mut WasiCtxBuilder {
    // SAFETY: crates/c-api/src/wasi.rs of the pinned version.
    unsafe { field(config) }
}

/// # Safety
///
/// cwd is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_component_config(
    config: &mut wasi_config_t,
    network: &Network,
    cwd: *const c_char,
) {
    let cwd = unsafe { bytes(cwd) };
    builder_of(config)
        .stdin(Standard(rustix::stdio::stdin()))
        .stdout(Standard(rustix::stdio::stdout()))
        .stderr(Standard(rustix::stdio::stderr()))
        // One guest, one thread: nobody else waits.
        .allow_blocking_current_thread(true)
        .monotonic_clock(Clock(0))
        .initial_cwd(String::from_utf8_lossy(&cwd));
    net::configure(builder_of(config), &network.0);
}

/// Defines WASI 0.2 and, where calls are asynchronous, 0.3.
fn define_component(
    linker: &mut wasmtime::component::Linker<WasmtimeStoreData>,
    network: &Arc<Policy>,
    asynchronous: bool,
) -> wasmtime::Result<()> {
    if asynchronous {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi::p3::add_to_linker(linker)?;
    } else {
        wasmtime_wasi::p2::add_to_linker_sync(linker)?;
    }
    linker.allow_shadowing(true);
    p2::define(linker)?;
    net::define_p2(linker, network.clone())?;
    net::define_udp(linker, asynchronous)?;
    if asynchronous {
        p3::define(linker)?;
        net::define_p3(linker, network.clone())?;
    }
    client::define(linker, asynchronous)?;
    linker.allow_shadowing(false);
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_component_define(
    linker: &mut wasmtime_component_linker_t,
    network: &Network,
    asynchronous: bool,
) -> Option<Box<wasmtime_error_t>> {
    error(define_component(component_linker_of(linker), &network.0, asynchronous))
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_component_call(
    context: WasmtimeStoreContextMut<'_>,
    linker: &mut wasmtime_component_linker_t,
    component: &mut wasmtime_component_t,
    export: &mut wasmtime_component_export_index_t,
    print: bool,
    started: &mut bool,
    failed: &mut bool,
) -> Option<Box<wasmtime_error_t>> {
    let (linker, component, export) =
        (component_linker_of(linker), component_of(component), export_of(export));
    let called = component::call(context, linker, component, export, started);
    error(called.and_then(|result| match result {
        Some(value) => {
            *failed = matches!(value, Val::Result(Err(_)));
            if print { component::print(&value) } else { Ok(()) }
        }
        None => Ok(()),
    }))
}

/// # Safety
///
/// text is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_config_flags(
    config: &mut wasm_config_t,
    text: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    let text = unsafe { bytes(text) };
    let made = flags::config(&String::from_utf8_lossy(&text));
    error(made.map_err(wasmtime::Error::msg).map(|made| *config_of(config) = made))
}

/// An interpreter has some 20 MB in memory, with gaps. wasmtime maps up to 16 MiB of that,
/// and copies more at each start, unless most of it is full.
const MAPPED: u64 = 64 << 20;

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_config_initialized(config: &mut wasm_config_t) {
    config_of(config).memory_guaranteed_dense_image_size(MAPPED);
}

/// The hasher is this binary's, as what it is compared with.
///
/// # Safety
///
/// function is a C string or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_compatibility(engine: &mut wasm_engine_t, function: *const c_char) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine_of(engine).precompile_compatibility_hash().hash(&mut hasher);
    if !function.is_null() {
        (initialize::VERSION, unsafe { bytes(function) }).hash(&mut hasher);
    }
    hasher.finish()
}

/// # Safety
///
/// function is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_initialize(
    engine: &mut wasm_engine_t,
    wasm: &wasm_byte_vec_t,
    function: *const c_char,
    made: &mut wasm_byte_vec_t,
    written: &mut wasm_byte_vec_t,
    trapped: &mut bool,
) -> Option<Box<wasmtime_error_t>> {
    let function = unsafe { bytes(function) };
    let function = String::from_utf8_lossy(&function);
    let mut line = String::new();
    let done = initialize::initialize(engine_of(engine), wasm.as_slice(), &function, &mut line, trapped);
    written.set_buffer(line.into_bytes());
    error(done.map(|code| made.set_buffer(code)))
}

fn error(result: wasmtime::Result<()>) -> Option<Box<wasmtime_error_t>> {
    result.err().map(|e| Box::new(e.into()))
}

/// What a guest may do in the network, of which all parts have the same.
#[derive(Default)]
pub struct Network(pub Arc<Policy>);

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_network_new() -> Box<Network> {
    Box::default()
}

/// # Safety
///
/// key and value are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_network_set(
    network: &mut Network,
    key: *const c_char,
    value: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    let (key, value) = unsafe { (bytes(key), bytes(value)) };
    let policy = Arc::get_mut(&mut network.0).expect("it is set before it is used");
    let set = policy.set(&String::from_utf8_lossy(&key), &String::from_utf8_lossy(&value));
    error(set.map_err(wasmtime::Error::msg))
}

/// # Safety
///
/// As of CStr::from_ptr.
unsafe fn bytes(s: *const c_char) -> Vec<u8> {
    unsafe { CStr::from_ptr(s) }.to_bytes().to_vec()
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_p1_new() -> Box<Guest> {
    Box::default()
}

/// # Safety
///
/// arg is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_p1_arg(guest: &mut Guest, arg: *const c_char) {
    guest.args.push(unsafe { bytes(arg) });
}

/// # Safety
///
/// name and value are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_p1_env(guest: &mut Guest, name: *const c_char, value: *const c_char) {
    let (name, value) = unsafe { (bytes(name), bytes(value)) };
    guest.env.push([&name, &b"="[..], &value].concat());
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_p1_streams(guest: &mut Guest) {
    guest.give_streams();
}

/// # Safety
///
/// addresses is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_p1_listen(
    guest: &mut Guest,
    network: &Network,
    addresses: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    let addresses = unsafe { bytes(addresses) };
    for address in String::from_utf8_lossy(&addresses).split(',').map(str::trim) {
        match network.0.listen(address) {
            Ok(socket) => guest.give_listener(socket.into(), &network.0),
            Err(e) => return error(Err(wasmtime::Error::msg(e))),
        }
    }
    None
}

/// # Safety
///
/// host and name are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_p1_dir(
    guest: &mut Guest,
    host: *const c_char,
    name: *const c_char,
) -> c_int {
    let (host, name) = unsafe { (bytes(host), bytes(name)) };
    match open_dir(&host) {
        Ok(fd) => {
            guest.give_dir(fd, Scope::of(&host, &name), name);
            0
        }
        Err(e) => e.raw_os_error(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_p1_define(
    linker: &mut wasmtime_linker_t,
    guest: Box<Guest>,
) -> Option<Box<wasmtime_error_t>> {
    error(define(linker_of(linker), *guest))
}

/// Does what a guest has called, on its memory.
fn call<T>(
    caller: &mut Caller<'_, T>,
    guest: &Guest,
    act: impl FnOnce(&Guest, &mut Memory<'_>) -> Result<(), Errno>,
) -> wasmtime::Result<u32> {
    let done = match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => act(guest, &mut memory.data_mut(caller).into()),
        Some(Extern::SharedMemory(memory)) => act(guest, &mut Memory(memory.data())),
        _ => wasmtime::bail!("missing required memory export"),
    };
    Ok(done.map_or_else(|e| u32::from(e.0), |()| 0))
}

macro_rules! define {
    ($linker:ident, $guest:ident: $($name:ident($($arg:ident $type:ty),*))*) => {$({
        let guest = $guest.clone();
        $linker.func_wrap(
            "wasi_snapshot_preview1",
            stringify!($name),
            move |mut caller: Caller<'_, T>, $($arg: $type),*| {
                call(&mut caller, &guest, |g, m| g.$name(m, $($arg),*))
            },
        )?;
    })*};
}

/// proc_exit is not among them: each caller has its own.
pub fn define<T: 'static>(linker: &mut Linker<T>, guest: Guest) -> wasmtime::Result<()> {
    let guest = Arc::new(guest);
    define! { linker, guest:
        args_get(a u32, b u32)
        args_sizes_get(a u32, b u32)
        environ_get(a u32, b u32)
        environ_sizes_get(a u32, b u32)
        clock_res_get(a u32, b u32)
        clock_time_get(a u32, b u64, c u32)
        fd_advise(a u32, b u64, c u64, d u32)
        fd_allocate(a u32, b u64, c u64)
        fd_close(a u32)
        fd_datasync(a u32)
        fd_fdstat_get(a u32, b u32)
        fd_fdstat_set_flags(a u32, b u32)
        fd_fdstat_set_rights(a u32, b u64, c u64)
        fd_filestat_get(a u32, b u32)
        fd_filestat_set_size(a u32, b u64)
        fd_filestat_set_times(a u32, b u64, c u64, d u32)
        fd_pread(a u32, b u32, c u32, d u64, e u32)
        fd_prestat_get(a u32, b u32)
        fd_prestat_dir_name(a u32, b u32, c u32)
        fd_pwrite(a u32, b u32, c u32, d u64, e u32)
        fd_read(a u32, b u32, c u32, d u32)
        fd_readdir(a u32, b u32, c u32, d u64, e u32)
        fd_renumber(a u32, b u32)
        fd_seek(a u32, b u64, c u32, d u32)
        fd_sync(a u32)
        fd_tell(a u32, b u32)
        fd_write(a u32, b u32, c u32, d u32)
        path_create_directory(a u32, b u32, c u32)
        path_filestat_get(a u32, b u32, c u32, d u32, e u32)
        path_filestat_set_times(a u32, b u32, c u32, d u32, e u64, f u64, g u32)
        path_link(a u32, b u32, c u32, d u32, e u32, f u32, g u32)
        path_open(a u32, b u32, c u32, d u32, e u32, f u64, g u64, h u32, i u32)
        path_readlink(a u32, b u32, c u32, d u32, e u32, f u32)
        path_remove_directory(a u32, b u32, c u32)
        path_rename(a u32, b u32, c u32, d u32, e u32, f u32)
        path_symlink(a u32, b u32, c u32, d u32, e u32)
        path_unlink_file(a u32, b u32, c u32)
        poll_oneoff(a u32, b u32, c u32, d u32)
        proc_raise(a u32)
        sched_yield()
        random_get(a u32, b u32)
        sock_accept(a u32, b u32, c u32)
        sock_recv(a u32, b u32, c u32, d u32, e u32, f u32)
        sock_send(a u32, b u32, c u32, d u32, e u32)
        sock_shutdown(a u32, b u32)
    }
    Ok(())
}

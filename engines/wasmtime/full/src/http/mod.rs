// SPDX-License-Identifier: Apache-2.0

//! Components that answer HTTP: what operators may set, and the functions of
//! include/wasmshim_wasmtime.h that serve them.

mod access;
mod connection;
mod guest;
mod instances;
mod options;
mod pool;
mod request;
mod server;

use crate::client;
use crate::handles::{Network, component_of};
use guest::{Setup, version_of};
use options::Options;
use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{FromRawFd, OwnedFd};
use wasmtime::Result;
use wasmtime_c_api::{wasmtime_component_t, wasmtime_error_t};

/// A service that does not serve yet.
pub struct Service {
    setup: Setup,
    options: Options,
}

fn given(done: Result<()>) -> Option<Box<wasmtime_error_t>> {
    done.err().map(|e| Box::new(e.into()))
}

/// # Safety
///
/// As of CStr::from_ptr.
unsafe fn text(s: *const c_char, what: &str) -> Result<String> {
    let s = unsafe { CStr::from_ptr(s) };
    let not = |_| wasmtime::format_err!("{what} is not UTF-8, which WASI requires: {}", s.to_string_lossy());
    s.to_str().map(str::to_string).map_err(not)
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_http_serves(component: &mut wasmtime_component_t) -> bool {
    version_of(component_of(component)).is_some()
}

#[unsafe(no_mangle)]
pub extern "C" fn wasmshim_http_new(network: &Network) -> Box<Service> {
    Box::new(Service { setup: Setup::new(network.0.clone()), options: Options::default() })
}

/// # Safety
///
/// bundle is a C string or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_permit(network: &Network, bundle: *const c_char) {
    let bundle = (!bundle.is_null()).then(|| unsafe { CStr::from_ptr(bundle) });
    client::permit(&network.0, bundle.map(|b| b.to_string_lossy().into_owned()));
}

/// # Safety
///
/// arg is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_arg(
    service: &mut Service,
    arg: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    given(unsafe { text(arg, "an argument") }.map(|arg| service.setup.args.push(arg)))
}

/// # Safety
///
/// name and value are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_env(
    service: &mut Service,
    name: *const c_char,
    value: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    let what = "an environment variable";
    given((|| {
        let (name, value) = unsafe { (text(name, what)?, text(value, what)?) };
        service.setup.env.push((name, value));
        Ok(())
    })())
}

/// # Safety
///
/// host and name are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_dir(
    service: &mut Service,
    host: *const c_char,
    name: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    let what = "a directory's name";
    given((|| {
        let (host, name) = unsafe { (text(host, what)?, text(name, what)?) };
        service.setup.dirs.push((host, name));
        Ok(())
    })())
}

/// # Safety
///
/// cwd is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_cwd(
    service: &mut Service,
    cwd: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    given(unsafe { text(cwd, "the working directory") }.map(|cwd| service.setup.cwd = cwd))
}

/// # Safety
///
/// key and value are C strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_option(
    service: &mut Service,
    key: *const c_char,
    value: *const c_char,
) -> Option<Box<wasmtime_error_t>> {
    given((|| {
        let (key, value) = unsafe { (text(key, "an option")?, text(value, "an option")?) };
        service.options.set(&key, &value)
    })())
}

/// # Safety
///
/// signals is a descriptor that nobody else closes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wasmshim_http_serve(
    component: &mut wasmtime_component_t,
    service: Box<Service>,
    signals: c_int,
    code: &mut c_int,
) -> Option<Box<wasmtime_error_t>> {
    let signals = unsafe { OwnedFd::from_raw_fd(signals) };
    given((|| {
        let component = component_of(component);
        let Some(version) = version_of(component) else { wasmtime::bail!("the guest is no HTTP service") };
        *code = server::serve(component, version, service.setup, service.options, signals)?;
        Ok(())
    })())
}

// SPDX-License-Identifier: Apache-2.0

//! wasmtime's C API and, beside it, what guests of containers need beyond it;
//! include/wasmshim_wasmtime.h is about that.

// The C API, all of it: without this its functions would not be in the library.
pub use wasmtime_c_api::*;

mod client;
mod clock;
mod component;
mod flags;
mod handles;
mod http;
mod initialize;
mod net;
mod p2;
mod p3;
mod random;
mod streams;

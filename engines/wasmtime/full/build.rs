// SPDX-License-Identifier: Apache-2.0

//! Says where wasmtime's C headers are, which its own build script makes: in the
//! file that WASMSHIM_HEADERS names, for scripts/wasmtime.sh.

use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=WASMSHIM_HEADERS");
    let include = env::var("DEP_WASMTIME_C_API_INCLUDE").expect("the C API says where its headers are");
    if let Ok(file) = env::var("WASMSHIM_HEADERS") {
        fs::write(&file, include).unwrap_or_else(|e| panic!("cannot write {file}: {e}"));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Finds libwasmshim.a: in the directory that WASMSHIM_LIB names, or in this
//! repository's build directory.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=WASMSHIM_LIB");
    let dir = env::var("WASMSHIM_LIB").map(PathBuf::from).unwrap_or_else(|_| {
        PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../build")
    });
    println!("cargo:rerun-if-changed={}", dir.join("libwasmshim.a").display());
    println!("cargo:rustc-link-search=native={}", dir.display());
    println!("cargo:rustc-link-lib=static=wasmshim");
    // By the build id the library tells this binary's artifacts from another's.
    println!("cargo:rustc-link-arg=-Wl,--build-id");
}

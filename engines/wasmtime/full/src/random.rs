// SPDX-License-Identifier: Apache-2.0

//! Where randomness comes from: the system call, never a file.
//!
//! The crate getrandom asks the dynamic linker for the C library's function, and reads
//! /dev/urandom where it gets no answer. A static program has no dynamic linker, and the
//! compiler, or a container without /dev, has no such file: it would end by a panic.

use std::ffi::{CStr, c_char, c_uint, c_void};

unsafe extern "C" {
    fn getrandom(to: *mut c_void, size: usize, flags: c_uint) -> isize;
}

/// Stands for the C library's in a static program, where that one finds nothing. This one
/// finds nothing but the one function.
///
/// # Safety
///
/// name is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlsym(_library: *mut c_void, name: *const c_char) -> *mut c_void {
    if unsafe { CStr::from_ptr(name) } == c"getrandom" {
        let function: unsafe extern "C" fn(*mut c_void, usize, c_uint) -> isize = getrandom;
        return function as *mut c_void;
    }
    std::ptr::null_mut()
}

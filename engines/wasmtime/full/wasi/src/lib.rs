// SPDX-License-Identifier: Apache-2.0

//! What a guest of a container sees of it: by WASI, as the kernel has it.

pub mod errno;
pub mod files;
pub mod kept;
pub mod memory;
pub mod names;
pub mod network;
pub mod p1;

// SPDX-License-Identifier: Apache-2.0

//! The clock of components that only goes on: the kernel's, as modules have it. One that
//! begins anew in each process would go back where a guest has been initialised before.

use rustix::time::{ClockId, clock_getres, clock_gettime};
use std::time::Duration;
use wasmtime_wasi::HostMonotonicClock;

/// What the kernel's says when this one is zero.
pub struct Clock(pub u64);

fn nanoseconds(t: rustix::time::Timespec) -> u64 {
    Duration::try_from(t).map_or(0, |d| d.as_nanos() as u64)
}

/// What the kernel's says.
pub fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        nanoseconds(clock_getres(ClockId::Monotonic))
    }

    fn now(&self) -> u64 {
        now().saturating_sub(self.0)
    }
}

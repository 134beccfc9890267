// SPDX-License-Identifier: Apache-2.0

//! What guests that are cases of a specification say: on standard error what is not as it
//! is expected to be, and how many cases there were.

use std::fmt::{Debug, Display};

#[derive(Default)]
pub struct Cases {
    count: u32,
    failed: u32,
}

impl Cases {
    pub fn is<T: PartialEq + Debug>(&mut self, what: impl Display, found: T, want: T) {
        self.count += 1;
        if found != want {
            self.failed += 1;
            eprintln!("{what}: found {found:?}, expected {want:?}");
        }
    }

    pub fn yes(&mut self, what: impl Display, found: bool) {
        self.is(what, found, true);
    }

    /// Of a clock that never goes back.
    #[allow(dead_code)] // preview 1 has several
    pub fn goes_on(&mut self, now: impl Fn() -> u64) {
        let mut last = now();
        for _ in 0..1000 {
            let next = now();
            self.yes(format!("{next} after {last}"), next >= last);
            last = next;
        }
    }

    pub fn end(self) -> ! {
        eprintln!("{} cases, {} of them failed", self.count, self.failed);
        std::process::exit(i32::from(self.failed > 0));
    }
}

// SPDX-License-Identifier: Apache-2.0

//! What a guest writes where nobody reads.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Mutex;

/// So much of the end is kept: there is the reason, if a guest fails.
const MOST: usize = 1 << 10;

/// A pipe to whoever asks what it is; but what is written is here.
pub struct Kept {
    end: Mutex<VecDeque<u8>>,
    writer: OwnedFd,
    /// For the pipe to be whole.
    _reader: OwnedFd,
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }
}

impl Kept {
    pub fn new() -> rustix::io::Result<Kept> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Kept { end: Mutex::default(), writer, _reader: reader })
    }

    /// Takes all of it, and says how much that was. Bytes may be a guest's memory, which its
    /// threads write to: they are only copied.
    pub fn add(&self, pieces: &[IoSlice<'_>]) -> usize {
        let mut end = self.end.lock().expect("no panic is survived");
        for piece in pieces {
            end.extend(&piece[piece.len().saturating_sub(MOST)..]);
            let surplus = end.len().saturating_sub(MOST);
            end.drain(..surplus);
        }
        pieces.iter().map(|p| p.len()).sum()
    }

    /// As one line of text.
    pub fn line(&self) -> String {
        let end = self.end.lock().expect("no panic is survived");
        let bytes: Vec<u8> = end.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        line.trim().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_it() {
        let kept = Kept::new().unwrap();
        assert_eq!(kept.line(), "");
        assert_eq!(kept.add(&[IoSlice::new(b"one\n"), IoSlice::new(b"\xfftwo\x1b\n")]), 10);
        assert_eq!(kept.line(), "one \u{fffd}two");
        assert_eq!(kept.add(&[IoSlice::new(&[b'.'; 5000]), IoSlice::new(b"last")]), 5004);
        assert_eq!(kept.line().len(), MOST);
        assert!(kept.line().ends_with(".last"));
    }
}

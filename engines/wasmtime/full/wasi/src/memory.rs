// SPDX-License-Identifier: Apache-2.0

//! A guest's memory. Every address and length in it comes from the guest.

use crate::errno::Errno;
use std::cell::{Cell, UnsafeCell};
use std::io::IoSlice;
use std::mem::MaybeUninit;

/// Threads of the guest may write to it at any time: what is looked at is copied first,
/// and nothing is looked at twice.
pub struct Memory<'a>(pub &'a [UnsafeCell<u8>]);

impl<'a> From<&'a mut [u8]> for Memory<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        let cells = std::ptr::from_ref(Cell::from_mut(bytes).as_slice_of_cells());
        // SAFETY: a Cell is nothing but an UnsafeCell, and the bytes are borrowed as long.
        Memory(unsafe { &*(cells as *const [UnsafeCell<u8>]) })
    }
}

impl Memory<'_> {
    /// Says whether there are so many bytes.
    pub fn has(&self, at: u32, len: u32) -> Result<(), Errno> {
        self.cells(at, len).map(|_| ())
    }

    fn cells(&self, at: u32, len: u32) -> Result<&[UnsafeCell<u8>], Errno> {
        let at = at as usize;
        self.0.get(at..at + len as usize).ok_or(Errno::FAULT)
    }

    pub fn copy(&self, at: u32, len: u32) -> Result<Vec<u8>, Errno> {
        // SAFETY: a copy of bytes, whichever they are.
        Ok(self.cells(at, len)?.iter().map(|c| unsafe { c.get().read_volatile() }).collect())
    }

    /// A place for the kernel to write to.
    pub fn place(&mut self, at: u32, len: u32) -> Result<&mut [MaybeUninit<u8>], Errno> {
        let cells = self.cells(at, len)?;
        // SAFETY: only the kernel uses it, which takes a guest's memory for what it is.
        Ok(unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()).cast(), cells.len()) })
    }

    pub fn write(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let len = u32::try_from(bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        let to = self.place(at, len)?.as_mut_ptr().cast();
        // SAFETY: there is room for them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    pub fn write_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    pub fn write_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.write(at, &value.to_le_bytes())
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N], Errno> {
        let cells = self.cells(at, N as u32)?;
        // SAFETY: as of copy.
        Ok(std::array::from_fn(|i| unsafe { cells[i].get().read_volatile() }))
    }

    pub fn u8(&self, at: u32) -> Result<u8, Errno> {
        Ok(self.array::<1>(at)?[0])
    }

    pub fn u16(&self, at: u32) -> Result<u16, Errno> {
        Ok(u16::from_le_bytes(self.array(at)?))
    }

    pub fn u32(&self, at: u32) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.array(at)?))
    }

    pub fn u64(&self, at: u32) -> Result<u64, Errno> {
        Ok(u64::from_le_bytes(self.array(at)?))
    }

    /// A path or a link's text: bytes without NUL.
    pub fn text(&self, at: u32, len: u32) -> Result<Vec<u8>, Errno> {
        let text = self.copy(at, len)?;
        if text.contains(&0) { Err(Errno::INVAL) } else { Ok(text) }
    }

    /// The pieces to write from, as many as the kernel takes at once, and no more
    /// bytes than most.
    pub fn pieces(&self, at: u32, count: u32, most: usize) -> Result<Vec<IoSlice<'_>>, Errno> {
        let mut pieces = Vec::new();
        let mut left = most;
        for i in 0..count.min(MOST_PIECES) {
            let (from, len) = self.piece(at, i)?;
            let cells = self.cells(from, len)?;
            let n = cells.len().min(left);
            left -= n;
            // SAFETY: only the kernel looks at them.
            let bytes = unsafe { std::slice::from_raw_parts(UnsafeCell::raw_get(cells.as_ptr()), n) };
            pieces.push(IoSlice::new(bytes));
        }
        Ok(pieces)
    }

    /// The first piece to read to that is not empty. One is enough: a read may be
    /// short, and the guest's pieces may overlap.
    pub fn first_piece(&mut self, at: u32, count: u32) -> Result<&mut [MaybeUninit<u8>], Errno> {
        for i in 0..count {
            let (to, len) = self.piece(at, i)?;
            if len > 0 {
                return self.place(to, len);
            }
        }
        Ok(&mut [])
    }

    fn piece(&self, at: u32, i: u32) -> Result<(u32, u32), Errno> {
        let at = i.checked_mul(8).and_then(|offset| at.checked_add(offset)).ok_or(Errno::FAULT)?;
        Ok((self.u32(at)?, self.u32(at.checked_add(4).ok_or(Errno::FAULT)?)?))
    }
}

/// IOV_MAX.
const MOST_PIECES: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beyond_the_end() {
        let mut bytes = vec![0; 16];
        bytes[0..8].copy_from_slice(&[8, 0, 0, 0, 4, 0, 0, 0]);
        let mut m = Memory::from(&mut bytes[..]);
        assert_eq!(m.has(12, 4), Ok(()));
        assert_eq!(m.copy(12, 5), Err(Errno::FAULT));
        assert_eq!(m.has(u32::MAX, u32::MAX), Err(Errno::FAULT));
        assert_eq!(m.write_u64(9, 1), Err(Errno::FAULT));
        assert_eq!(m.pieces(0, 1, 9).map(|p| p[0].len()), Ok(4));
        assert_eq!(m.pieces(0, 1, 3).map(|p| p[0].len()), Ok(3));
        assert_eq!(m.pieces(0, 3, 9).map(|p| p.len()), Err(Errno::FAULT));
        assert_eq!(m.first_piece(u32::MAX - 3, 1).map(|_| ()), Err(Errno::FAULT));
        assert_eq!(m.text(0, 8), Err(Errno::INVAL));
    }
}

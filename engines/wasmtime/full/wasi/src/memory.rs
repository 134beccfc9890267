// SPDX-License-Identifier: Apache-2.0

//! A guest's memory. Every address and length in it comes from the guest.

use crate::errno::Errno;
use std::cell::{Cell, UnsafeCell};
use std::io::{IoSlice, IoSliceMut};
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

    /// The pieces to read to, as many as the kernel takes at once. What the guest has lying
    /// over another one ends them: a read may be short.
    pub fn places(&mut self, at: u32, count: u32) -> Result<Vec<IoSliceMut<'_>>, Errno> {
        let mut places: Vec<IoSliceMut<'_>> = Vec::new();
        for i in 0..count.min(MOST_PIECES) {
            let (to, len) = self.piece(at, i)?;
            let cells = self.cells(to, len)?;
            let range = cells.as_ptr_range();
            let is_over = |p: &IoSliceMut<'_>| {
                let p = p.as_ptr_range();
                p.start < range.end.cast() && range.start.cast() < p.end
            };
            if places.iter().any(is_over) {
                break;
            }
            // SAFETY: only the kernel writes to them, and each byte is in one of them.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) };
            places.push(IoSliceMut::new(bytes));
        }
        Ok(places)
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
        assert_eq!(m.places(u32::MAX - 3, 1).map(|_| ()), Err(Errno::FAULT));
        assert_eq!(m.text(0, 8), Err(Errno::INVAL));
    }

    #[test]
    fn no_place_twice() {
        for (pieces, want) in [
            ([(32, 4), (36, 4), (40, 8)], vec![4, 4, 8]),
            ([(40, 8), (32, 4), (36, 4)], vec![8, 4, 4]),
            ([(32, 4), (35, 4), (44, 4)], vec![4]),
            ([(32, 4), (40, 4), (32, 1)], vec![4, 4]),
            ([(32, 8), (32, 0), (40, 8)], vec![8, 0, 8]),
            ([(32, 0), (32, 4), (32, 4)], vec![0, 4]),
        ] {
            let mut bytes = vec![0; 48];
            for (i, (at, len)) in pieces.into_iter().enumerate() {
                bytes[8 * i] = at;
                bytes[8 * i + 4] = len;
            }
            let mut m = Memory::from(&mut bytes[..]);
            let places = m.places(0, 3).unwrap();
            assert_eq!(places.iter().map(|p| p.len()).collect::<Vec<_>>(), want, "{pieces:?}");
        }
    }
}

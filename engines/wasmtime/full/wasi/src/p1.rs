// SPDX-License-Identifier: Apache-2.0

//! WASI preview 1 as the kernel has it: a guest's descriptors are descriptors, each
//! function is the system call that it was made of, and the kernel's error is the
//! guest's. There is no thread and no buffer in between.

use crate::errno::Errno;
use crate::files::{Place, Scope, file_type};
use crate::kept::Kept;
use crate::memory::Memory;
use crate::network::{Policy, Use};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, Advice, FallocateFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timestamps};
use rustix::io::Errno as Kernel;
use rustix::net::{
    self, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::{ClockId, clock_getres, clock_gettime};
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

type Result<T = ()> = std::result::Result<T, Errno>;

/// What a guest starts with, and its descriptors from then on.
#[derive(Default)]
pub struct Guest {
    pub args: Vec<Vec<u8>>,
    /// Each is NAME=value.
    pub env: Vec<Vec<u8>>,
    /// Nobody holds it while something waits: threads of the guest have other calls.
    table: RwLock<Vec<Option<Arc<Descriptor>>>>,
    /// Whose connections it may accept.
    network: Arc<Policy>,
    /// What the kernel's clock said when the guest's own, which only goes on, was zero.
    pub since: u64,
}

struct Descriptor {
    fd: Fd,
    /// For paths that are relative to it.
    scope: Scope,
    /// The name of a directory that the guest was given.
    preopen: Option<Vec<u8>>,
    /// The guest does not want to wait. It is not the kernel's flag: that would be
    /// everybody's who has the same pipe or terminal.
    nonblock: AtomicBool,
    /// Held while a directory is read: where its reader is, is the kernel's affair.
    reading: Mutex<()>,
}

enum Fd {
    /// One of the process's standard streams, which stays open for its own messages.
    Stream(BorrowedFd<'static>),
    Own(OwnedFd),
    /// What is written to it is kept; the descriptor is for everything else.
    Kept(Arc<Kept>, OwnedFd),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Fd::Stream(fd) => *fd,
            Fd::Own(fd) | Fd::Kept(_, fd) => fd.as_fd(),
        }
    }
}

impl Descriptor {
    fn new(fd: Fd, scope: Scope, nonblock: bool) -> Self {
        Descriptor { fd, scope, preopen: None, nonblock: nonblock.into(), reading: Mutex::default() }
    }

    fn nonblock(&self) -> bool {
        self.nonblock.load(Ordering::Relaxed)
    }

    fn place(&self) -> Place<'_> {
        Place { dir: self.as_fd(), scope: self.scope }
    }

    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(self)
    }

    fn filetype(&self, stat: &Stat) -> u8 {
        match (&self.fd, file_type(stat)) {
            // Many guests take a stream that is a character device for a terminal.
            (Fd::Stream(_), FileType::CharacterDevice) if !self.is_terminal() => 0,
            (_, other) => filetype_of(other),
        }
    }

    /// Those of it, and of what is opened below it.
    fn rights(&self, filetype: FileType, flags: OFlags) -> (u64, u64) {
        let (mut base, inheriting) = match filetype {
            FileType::Directory => (rights::DIR, rights::DIR | rights::FILE),
            FileType::Socket => (rights::SOCKET, rights::SOCKET),
            // By this a C library knows a terminal from other devices.
            FileType::CharacterDevice if self.is_terminal() => {
                (rights::FILE & !(rights::SEEK | rights::TELL), 0)
            }
            _ => (rights::FILE, 0),
        };
        match flags & OFlags::RWMODE {
            OFlags::WRONLY => base &= !(rights::READ | rights::READDIR),
            OFlags::RDONLY => base &= !rights::WRITE,
            _ => {}
        }
        (base, inheriting)
    }

    /// Waits until the descriptor is ready, or says EAGAIN if the guest does not
    /// want to wait.
    fn wait(&self, flags: PollFlags) -> Result {
        let forever = None;
        let now = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        let mut fds = [PollFd::new(self, flags)];
        loop {
            match poll(&mut fds, if self.nonblock() { now } else { forever }) {
                Ok(0) => return Err(Errno::AGAIN),
                Ok(_) => return Ok(()),
                Err(Kernel::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Does what may wait: as often as it takes, where somebody else has set the
    /// kernel's flag, and only if it need not wait, where the guest does not want to.
    fn patiently<T>(&self, flags: PollFlags, mut act: impl FnMut() -> rustix::io::Result<T>) -> Result<T> {
        if self.nonblock() {
            self.wait(flags)?;
        }
        loop {
            match act() {
                Err(Kernel::AGAIN) if !self.nonblock() => self.wait(flags)?,
                Err(Kernel::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Bits of preview 1's rights, in their order.
mod rights {
    pub const READ: u64 = 1 << 1;
    pub const SEEK: u64 = 1 << 2;
    pub const TELL: u64 = 1 << 5;
    pub const WRITE: u64 = 1 << 6;
    pub const READDIR: u64 = 1 << 14;
    pub const ALL: u64 = (1 << 30) - 1;
    /// Of those of a directory; guests ask for no more below it.
    pub const DIR: u64 =
        ALL & !(READ | SEEK | TELL | WRITE | ADVISE | ALLOCATE | SET_SIZE | PATH_SET_SIZE | SOCKETS);
    pub const FILE: u64 = ALL & !SOCKETS;
    pub const SOCKET: u64 = READ | WRITE | FDSTAT_SET_FLAGS | FILESTAT_GET | POLL | SOCKETS;
    const FDSTAT_SET_FLAGS: u64 = 1 << 3;
    const FILESTAT_GET: u64 = 1 << 21;
    const POLL: u64 = 1 << 27;
    const ADVISE: u64 = 1 << 7;
    const ALLOCATE: u64 = 1 << 8;
    const PATH_SET_SIZE: u64 = 1 << 19;
    const SET_SIZE: u64 = 1 << 22;
    const SOCKETS: u64 = 3 << 28;
}

mod fdflags {
    pub const APPEND: u32 = 1;
    pub const DSYNC: u32 = 2;
    pub const NONBLOCK: u32 = 4;
    pub const RSYNC: u32 = 8;
    pub const SYNC: u32 = 16;
}

const FOLLOW: u32 = 1;

/// Bits that the specification has no name for are no flags.
fn known(flags: u32, all: u32) -> Result {
    if flags & !all == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

const UNPOISONED: &str = "no panic is survived";

/// More than a guest can use, fewer than the process may have.
const MOST_DESCRIPTORS: usize = 1 << 20;

impl Guest {
    /// Gives the guest its standard streams; directories come behind them.
    pub fn give_streams(&mut self) {
        // SAFETY: the three are open as long as the process lives: the library sees to
        // it that they are there, and nothing here closes them.
        for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
            self.give(Descriptor::new(Fd::Stream(fd), Scope::Beneath, false));
        }
    }

    /// Gives it streams of nobody: an input that is at its end, and outputs that are kept.
    pub fn give_kept_streams(&mut self, kept: &Arc<Kept>) -> Result {
        let (input, _) = pipe_with(PipeFlags::CLOEXEC)?;
        self.give(Descriptor::new(Fd::Own(input), Scope::Beneath, false));
        for _ in 0..2 {
            let fd = rustix::io::fcntl_dupfd_cloexec(kept, 3)?;
            self.give(Descriptor::new(Fd::Kept(kept.clone(), fd), Scope::Beneath, false));
        }
        Ok(())
    }

    /// Gives it a socket that listens; comes between the streams and the directories.
    pub fn give_listener(&mut self, fd: OwnedFd, network: &Arc<Policy>) {
        self.network = network.clone();
        self.give(Descriptor::new(Fd::Own(fd), Scope::Beneath, false));
    }

    pub fn give_dir(&mut self, fd: OwnedFd, scope: Scope, name: Vec<u8>) {
        self.give(Descriptor { preopen: Some(name), ..Descriptor::new(Fd::Own(fd), scope, false) });
    }

    fn give(&mut self, d: Descriptor) {
        self.table.get_mut().expect(UNPOISONED).push(Some(Arc::new(d)));
    }

    /// What one thread closes, another one that is using it has until it is done.
    fn get(&self, fd: u32) -> Result<Arc<Descriptor>> {
        self.table.read().expect(UNPOISONED).get(fd as usize).and_then(Clone::clone).ok_or(Errno::BADF)
    }

    /// One that is no directory, for what would otherwise have an error of its own there.
    fn file(&self, fd: u32) -> Result<Arc<Descriptor>> {
        let d = self.get(fd)?;
        match file_type(&fs::fstat(&*d)?) {
            FileType::Directory => Err(Errno::BADF),
            _ => Ok(d),
        }
    }

    fn now(&self, id: ClockId) -> u64 {
        let since = if id == ClockId::Monotonic { self.since } else { 0 };
        now(id).saturating_sub(since)
    }

    /// The lowest number that is free, as everywhere.
    fn insert(&self, d: Descriptor) -> Result<u32> {
        let mut table = self.table.write().expect(UNPOISONED);
        let free = table.iter().position(Option::is_none).unwrap_or(table.len());
        if free >= MOST_DESCRIPTORS {
            return Err(Errno::MFILE);
        }
        if free == table.len() {
            table.push(None);
        }
        table[free] = Some(Arc::new(d));
        Ok(free as u32)
    }
}

fn filetype_of(t: FileType) -> u8 {
    match t {
        FileType::BlockDevice => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 3,
        FileType::RegularFile => 4,
        FileType::Socket => 6,
        FileType::Symlink => 7,
        FileType::Fifo | FileType::Unknown => 0,
    }
}

fn nanoseconds(seconds: i64, nanoseconds: u64) -> u64 {
    // What is before 1970, or after 2554, has no number in preview 1.
    u64::try_from(seconds).map_or(0, |s| s.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
}

fn write_filestat(m: &mut Memory<'_>, at: u32, stat: &Stat, filetype: u8) -> Result {
    let mut b = [0; 64];
    b[0..8].copy_from_slice(&stat.st_dev.to_le_bytes());
    b[8..16].copy_from_slice(&stat.st_ino.to_le_bytes());
    b[16] = filetype;
    b[24..32].copy_from_slice(&stat.st_nlink.to_le_bytes());
    b[32..40].copy_from_slice(&(stat.st_size as u64).to_le_bytes());
    for (i, (s, ns)) in [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ]
    .into_iter()
    .enumerate()
    {
        b[40 + 8 * i..48 + 8 * i].copy_from_slice(&nanoseconds(s, ns).to_le_bytes());
    }
    m.write(at, &b)
}

/// flags are those of preview 1: set, or set to now, each of the two.
fn timestamps(atime: u64, mtime: u64, flags: u32) -> Result<Timestamps> {
    let time = |set: u32, now: u32, at: u64| match (flags & set != 0, flags & now != 0) {
        (true, true) => Err(Errno::INVAL),
        (true, false) => {
            Ok(Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 })
        }
        (false, true) => Ok(Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW }),
        (false, false) => Ok(Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT }),
    };
    known(flags, 15)?;
    Ok(Timestamps { last_access: time(1, 2, atime)?, last_modification: time(4, 8, mtime)? })
}

fn clock(id: u32) -> Result<ClockId> {
    match id {
        0 => Ok(ClockId::Realtime),
        1 => Ok(ClockId::Monotonic),
        2 => Ok(ClockId::ProcessCPUTime),
        3 => Ok(ClockId::ThreadCPUTime),
        _ => Err(Errno::INVAL),
    }
}

fn now(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    nanoseconds(t.tv_sec, t.tv_nsec as u64)
}

/// Writes strings, each with a NUL, and the address of each.
fn put_strings(m: &mut Memory<'_>, strings: &[Vec<u8>], mut addresses: u32, mut at: u32) -> Result {
    for s in strings {
        m.write_u32(addresses, at)?;
        m.write(at, s)?;
        let end = at.checked_add(s.len() as u32).ok_or(Errno::FAULT)?;
        m.write(end, &[0])?;
        at = end.checked_add(1).ok_or(Errno::FAULT)?;
        addresses = addresses.checked_add(4).ok_or(Errno::FAULT)?;
    }
    Ok(())
}

fn put_sizes(m: &mut Memory<'_>, strings: &[Vec<u8>], count: u32, size: u32) -> Result {
    let bytes: usize = strings.iter().map(|s| s.len() + 1).sum();
    m.write_u32(count, strings.len() as u32)?;
    m.write_u32(size, u32::try_from(bytes).map_err(|_| Errno::OVERFLOW)?)
}

/// The functions of preview 1, in its order. Addresses are named out, at, or after
/// what is there.
#[allow(clippy::too_many_arguments, reason = "preview 1 has so many")]
impl Guest {
    pub fn args_get(&self, m: &mut Memory<'_>, argv: u32, at: u32) -> Result {
        put_strings(m, &self.args, argv, at)
    }

    pub fn args_sizes_get(&self, m: &mut Memory<'_>, count: u32, size: u32) -> Result {
        put_sizes(m, &self.args, count, size)
    }

    pub fn environ_get(&self, m: &mut Memory<'_>, environ: u32, at: u32) -> Result {
        put_strings(m, &self.env, environ, at)
    }

    pub fn environ_sizes_get(&self, m: &mut Memory<'_>, count: u32, size: u32) -> Result {
        put_sizes(m, &self.env, count, size)
    }

    pub fn clock_res_get(&self, m: &mut Memory<'_>, id: u32, out: u32) -> Result {
        let t = clock_getres(clock(id)?);
        m.write_u64(out, nanoseconds(t.tv_sec, t.tv_nsec as u64))
    }

    pub fn clock_time_get(&self, m: &mut Memory<'_>, id: u32, _precision: u64, out: u32) -> Result {
        m.write_u64(out, self.now(clock(id)?))
    }

    pub fn fd_advise(&self, _m: &mut Memory<'_>, fd: u32, offset: u64, len: u64, advice: u32) -> Result {
        let advice = match advice {
            0 => Advice::Normal,
            1 => Advice::Sequential,
            2 => Advice::Random,
            3 => Advice::WillNeed,
            4 => Advice::DontNeed,
            5 => Advice::NoReuse,
            _ => return Err(Errno::INVAL),
        };
        Ok(fs::fadvise(&*self.file(fd)?, offset, NonZeroU64::new(len), advice)?)
    }

    pub fn fd_allocate(&self, _m: &mut Memory<'_>, fd: u32, offset: u64, len: u64) -> Result {
        Ok(fs::fallocate(&*self.file(fd)?, FallocateFlags::empty(), offset, len)?)
    }

    pub fn fd_close(&self, _m: &mut Memory<'_>, fd: u32) -> Result {
        let mut table = self.table.write().expect(UNPOISONED);
        let d = table.get_mut(fd as usize).and_then(Option::take);
        drop(table); // closing may take its time
        d.map(drop).ok_or(Errno::BADF)
    }

    pub fn fd_datasync(&self, _m: &mut Memory<'_>, fd: u32) -> Result {
        Ok(fs::fdatasync(&*self.get(fd)?)?)
    }

    pub fn fd_fdstat_get(&self, m: &mut Memory<'_>, fd: u32, out: u32) -> Result {
        let d = &*self.get(fd)?;
        let stat = fs::fstat(d)?;
        let flags = fs::fcntl_getfl(d)?;
        let (base, inheriting) = d.rights(file_type(&stat), flags);
        let mut set = 0;
        for (flag, bit) in [
            (OFlags::APPEND, fdflags::APPEND),
            (OFlags::SYNC, fdflags::SYNC | fdflags::RSYNC),
            (OFlags::DSYNC, fdflags::DSYNC),
        ] {
            if flags.contains(flag) {
                set |= bit;
            }
        }
        if d.nonblock() {
            set |= fdflags::NONBLOCK;
        }
        let mut b = [0; 24];
        b[0] = d.filetype(&stat);
        b[2..4].copy_from_slice(&(set as u16).to_le_bytes());
        b[8..16].copy_from_slice(&base.to_le_bytes());
        b[16..24].copy_from_slice(&inheriting.to_le_bytes());
        m.write(out, &b)
    }

    pub fn fd_fdstat_set_flags(&self, _m: &mut Memory<'_>, fd: u32, flags: u32) -> Result {
        known(flags, fdflags::APPEND | fdflags::NONBLOCK)?;
        let d = &*self.get(fd)?;
        d.nonblock.store(flags & fdflags::NONBLOCK != 0, Ordering::Relaxed);
        if let Fd::Own(own) = &d.fd {
            let mut now = fs::fcntl_getfl(own)?;
            now.set(OFlags::APPEND, flags & fdflags::APPEND != 0);
            fs::fcntl_setfl(own, now)?;
        }
        Ok(())
    }

    /// Rights are what the descriptor's own mode leaves. None are added; those that are given
    /// up are not missed.
    pub fn fd_fdstat_set_rights(&self, _m: &mut Memory<'_>, fd: u32, base: u64, inheriting: u64) -> Result {
        let d = &*self.get(fd)?;
        let (has, below) = d.rights(file_type(&fs::fstat(d)?), fs::fcntl_getfl(d)?);
        if base & !has != 0 || inheriting & !below != 0 {
            return Err(Errno::NOTCAPABLE);
        }
        Ok(())
    }

    pub fn fd_filestat_get(&self, m: &mut Memory<'_>, fd: u32, out: u32) -> Result {
        let d = &*self.get(fd)?;
        let stat = fs::fstat(d)?;
        write_filestat(m, out, &stat, d.filetype(&stat))
    }

    pub fn fd_filestat_set_size(&self, _m: &mut Memory<'_>, fd: u32, size: u64) -> Result {
        Ok(fs::ftruncate(&*self.file(fd)?, size)?)
    }

    pub fn fd_filestat_set_times(
        &self,
        _m: &mut Memory<'_>,
        fd: u32,
        atime: u64,
        mtime: u64,
        flags: u32,
    ) -> Result {
        Ok(fs::futimens(&*self.get(fd)?, &timestamps(atime, mtime, flags)?)?)
    }

    pub fn fd_pread(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        offset: u64,
        out: u32,
    ) -> Result {
        let d = &*self.get(fd)?;
        let mut places = m.places(iovs, count)?;
        let n = d.patiently(PollFlags::IN, || rustix::io::preadv(d, &mut places, offset))?;
        m.write_u32(out, n as u32)
    }

    pub fn fd_prestat_get(&self, m: &mut Memory<'_>, fd: u32, out: u32) -> Result {
        let d = &*self.get(fd)?;
        let name = d.preopen.as_ref().ok_or(Errno::BADF)?;
        m.write_u32(out, 0)?;
        m.write_u32(out.checked_add(4).ok_or(Errno::FAULT)?, name.len() as u32)
    }

    pub fn fd_prestat_dir_name(&self, m: &mut Memory<'_>, fd: u32, at: u32, len: u32) -> Result {
        let d = &*self.get(fd)?;
        let name = d.preopen.as_ref().ok_or(Errno::BADF)?;
        if name.len() > len as usize {
            return Err(Errno::NAMETOOLONG);
        }
        m.write(at, name)
    }

    pub fn fd_pwrite(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        offset: u64,
        out: u32,
    ) -> Result {
        let d = &*self.get(fd)?;
        let pieces = m.pieces(iovs, count, usize::MAX)?;
        let n = d.patiently(PollFlags::OUT, || rustix::io::pwritev(d, &pieces, offset))?;
        m.write_u32(out, n as u32)
    }

    pub fn fd_read(&self, m: &mut Memory<'_>, fd: u32, iovs: u32, count: u32, out: u32) -> Result {
        let d = &*self.get(fd)?;
        let mut places = m.places(iovs, count)?;
        match d.patiently(PollFlags::IN, || rustix::io::readv(d, &mut places)) {
            Ok(n) => m.write_u32(out, n as u32),
            // Where a directory has been listed to its end, the kernel's first objection is to
            // its position.
            Err(Errno::INVAL) if file_type(&fs::fstat(d)?) == FileType::Directory => Err(Errno::ISDIR),
            Err(e) => Err(e),
        }
    }

    /// A cookie is the kernel's own: the position behind an entry.
    pub fn fd_readdir(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        at: u32,
        len: u32,
        cookie: u64,
        out: u32,
    ) -> Result {
        m.has(at, len)?;
        let d = &*self.get(fd)?;
        let mut buffer = vec![MaybeUninit::<u8>::uninit(); (len as usize).clamp(4 << 10, 64 << 10)];
        let mut listing = Vec::new();
        let _reading = d.reading.lock().expect(UNPOISONED);
        match fs::seek(d, SeekFrom::Start(cookie)) {
            Err(Kernel::SPIPE) => return Err(Errno::NOTDIR),
            sought => sought?,
        };
        let mut entries = fs::RawDir::new(d, &mut buffer);
        while listing.len() < len as usize {
            let Some(entry) = entries.next() else { break };
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            listing.extend_from_slice(&entry.next_entry_cookie().to_le_bytes());
            listing.extend_from_slice(&entry.ino().to_le_bytes());
            listing.extend_from_slice(&(name.len() as u32).to_le_bytes());
            listing.extend_from_slice(&u32::from(filetype_of(entry.file_type())).to_le_bytes());
            listing.extend_from_slice(name);
        }
        // One that does not fit is cut: so a guest sees that there is more.
        listing.truncate(len as usize);
        m.write(at, &listing)?;
        m.write_u32(out, listing.len() as u32)
    }

    pub fn fd_renumber(&self, _m: &mut Memory<'_>, fd: u32, to: u32) -> Result {
        let mut table = self.table.write().expect(UNPOISONED);
        let there = |n: u32| matches!(table.get(n as usize), Some(Some(_)));
        if !there(fd) || !there(to) {
            return Err(Errno::BADF);
        }
        let mut closed = None;
        if fd != to {
            let moved = table[fd as usize].take();
            closed = std::mem::replace(&mut table[to as usize], moved);
        }
        drop(table);
        drop(closed);
        Ok(())
    }

    pub fn fd_seek(&self, m: &mut Memory<'_>, fd: u32, offset: u64, whence: u32, out: u32) -> Result {
        let d = &*self.file(fd)?;
        let offset = offset as i64;
        let to = match whence {
            0 => SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::INVAL)?),
            1 => SeekFrom::Current(offset),
            2 => SeekFrom::End(offset),
            _ => return Err(Errno::INVAL),
        };
        m.write_u64(out, fs::seek(d, to)?)
    }

    pub fn fd_sync(&self, _m: &mut Memory<'_>, fd: u32) -> Result {
        Ok(fs::fsync(&*self.get(fd)?)?)
    }

    pub fn fd_tell(&self, m: &mut Memory<'_>, fd: u32, out: u32) -> Result {
        self.fd_seek(m, fd, 0, 1, out)
    }

    pub fn fd_write(&self, m: &mut Memory<'_>, fd: u32, iovs: u32, count: u32, out: u32) -> Result {
        let d = &*self.get(fd)?;
        // A pipe that is ready takes so much without waiting, and maybe no more.
        let most = if d.nonblock() { 4 << 10 } else { usize::MAX };
        let pieces = m.pieces(iovs, count, most)?;
        let n = match &d.fd {
            Fd::Kept(kept, _) => kept.add(&pieces),
            _ => d.patiently(PollFlags::OUT, || rustix::io::writev(d, &pieces))?,
        };
        m.write_u32(out, n as u32)
    }

    pub fn path_create_directory(&self, m: &mut Memory<'_>, fd: u32, at: u32, len: u32) -> Result {
        self.get(fd)?.place().make_dir(&m.text(at, len)?)
    }

    pub fn path_filestat_get(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        flags: u32,
        at: u32,
        len: u32,
        out: u32,
    ) -> Result {
        known(flags, FOLLOW)?;
        let stat = self.get(fd)?.place().stat(&m.text(at, len)?, flags & FOLLOW != 0)?;
        write_filestat(m, out, &stat, filetype_of(file_type(&stat)))
    }

    pub fn path_filestat_set_times(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        flags: u32,
        at: u32,
        len: u32,
        atime: u64,
        mtime: u64,
        which: u32,
    ) -> Result {
        known(flags, FOLLOW)?;
        let times = timestamps(atime, mtime, which)?;
        self.get(fd)?.place().set_times(&m.text(at, len)?, flags & FOLLOW != 0, &times)
    }

    pub fn path_link(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        flags: u32,
        at: u32,
        len: u32,
        new_fd: u32,
        new_at: u32,
        new_len: u32,
    ) -> Result {
        known(flags, 0)?; // none is followed
        self.get(fd)?.place().link(&m.text(at, len)?, self.get(new_fd)?.place(), &m.text(new_at, new_len)?)
    }

    pub fn path_open(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        lookup: u32,
        at: u32,
        len: u32,
        oflags: u32,
        base: u64,
        _inheriting: u64,
        set: u32,
        out: u32,
    ) -> Result {
        known(lookup, FOLLOW)?;
        known(oflags, 15)?;
        known(set, 31)?;
        let path = m.text(at, len)?;
        let mut flags = OFlags::NOCTTY;
        for (bit, flag) in
            [(1, OFlags::CREATE), (2, OFlags::DIRECTORY), (4, OFlags::EXCL), (8, OFlags::TRUNC)]
        {
            flags.set(flag, oflags & bit != 0);
        }
        for (bit, flag) in [
            (fdflags::APPEND, OFlags::APPEND),
            (fdflags::DSYNC, OFlags::DSYNC),
            (fdflags::NONBLOCK, OFlags::NONBLOCK),
            (fdflags::RSYNC | fdflags::SYNC, OFlags::SYNC),
        ] {
            if set & bit != 0 {
                flags |= flag;
            }
        }
        flags.set(OFlags::NOFOLLOW, lookup & FOLLOW == 0);
        flags |= match (base & rights::READ != 0, base & rights::WRITE != 0) {
            (_, false) => OFlags::RDONLY,
            (true, true) => OFlags::RDWR,
            (false, true) => OFlags::WRONLY,
        };
        let mode = if oflags & 1 != 0 { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        let dir = self.get(fd)?;
        let place = dir.place();
        let fd = match place.open(&path, flags, mode) {
            Ok(fd) => fd,
            // /dev/stdout and the like.
            Err(e) => match self.stream(&dir, &path).filter(|_| lookup & FOLLOW != 0) {
                Some(stream) => rustix::io::fcntl_dupfd_cloexec(&*stream, 3)?,
                None => return Err(e),
            },
        };
        let (fd, scope) = (Fd::Own(fd), place.scope.below());
        let number = self.insert(Descriptor::new(fd, scope, set & fdflags::NONBLOCK != 0))?;
        m.write_u32(out, number)
    }

    pub fn path_readlink(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        at: u32,
        len: u32,
        to: u32,
        size: u32,
        out: u32,
    ) -> Result {
        let text = self.get(fd)?.place().read_link(&m.text(at, len)?)?;
        let n = text.len().min(size as usize);
        m.write(to, &text[..n])?;
        m.write_u32(out, n as u32)
    }

    pub fn path_remove_directory(&self, m: &mut Memory<'_>, fd: u32, at: u32, len: u32) -> Result {
        self.get(fd)?.place().remove_dir(&m.text(at, len)?)
    }

    pub fn path_rename(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        at: u32,
        len: u32,
        new_fd: u32,
        new_at: u32,
        new_len: u32,
    ) -> Result {
        self.get(fd)?.place().rename(&m.text(at, len)?, self.get(new_fd)?.place(), &m.text(new_at, new_len)?)
    }

    pub fn path_symlink(
        &self,
        m: &mut Memory<'_>,
        text: u32,
        text_len: u32,
        fd: u32,
        at: u32,
        len: u32,
    ) -> Result {
        self.get(fd)?.place().symlink(&m.text(text, text_len)?, &m.text(at, len)?)
    }

    pub fn path_unlink_file(&self, m: &mut Memory<'_>, fd: u32, at: u32, len: u32) -> Result {
        self.get(fd)?.place().unlink(&m.text(at, len)?)
    }

    pub fn poll_oneoff(&self, m: &mut Memory<'_>, at: u32, out: u32, count: u32, events_out: u32) -> Result {
        let events = wait_for(&self.subscriptions(m, at, count)?)?;
        let mut b = Vec::with_capacity(events.len() * EVENT);
        for e in &events {
            b.extend_from_slice(&e.userdata.to_le_bytes());
            b.extend_from_slice(&e.error.map_or(0, |e| e.0).to_le_bytes());
            b.extend_from_slice(&[e.tag, 0, 0, 0, 0, 0]);
            b.extend_from_slice(&e.bytes.to_le_bytes());
            b.extend_from_slice(&u64::from(e.hangup).to_le_bytes());
        }
        m.write(out, &b)?;
        m.write_u32(events_out, events.len() as u32)
    }

    pub fn proc_raise(&self, _m: &mut Memory<'_>, _signal: u32) -> Result {
        Err(Errno::NOTSUP)
    }

    pub fn sched_yield(&self, _m: &mut Memory<'_>) -> Result {
        std::thread::yield_now();
        Ok(())
    }

    pub fn random_get(&self, m: &mut Memory<'_>, at: u32, len: u32) -> Result {
        getrandom::fill_uninit(m.place(at, len)?).map(|_| ()).map_err(|_| Errno::IO)
    }

    pub fn sock_accept(&self, m: &mut Memory<'_>, fd: u32, flags: u32, out: u32) -> Result {
        known(flags, fdflags::NONBLOCK)?;
        let d = &*self.get(fd)?;
        let socket = loop {
            let (socket, peer) =
                d.patiently(PollFlags::IN, || net::acceptfrom_with(d, SocketFlags::CLOEXEC))?;
            // Whoever may not connect is not heard of.
            let peer = peer.and_then(|p| std::net::SocketAddr::try_from(p).ok());
            if peer.is_some_and(|p| self.network.permits(p, Use::TcpAccept)) {
                break socket;
            }
        };
        let nonblock = flags & fdflags::NONBLOCK != 0;
        let fd = self.insert(Descriptor::new(Fd::Own(socket), Scope::Beneath, nonblock))?;
        m.write_u32(out, fd)
    }

    pub fn sock_recv(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        flags: u32,
        out: u32,
        flags_out: u32,
    ) -> Result {
        let mut how = RecvFlags::empty();
        how.set(RecvFlags::PEEK, flags & 1 != 0);
        how.set(RecvFlags::WAITALL, flags & 2 != 0);
        known(flags, 3)?;
        let d = &*self.get(fd)?;
        let mut places = m.places(iovs, count)?;
        let none = &mut RecvAncillaryBuffer::default();
        let n = d.patiently(PollFlags::IN, || Ok(net::recvmsg(d, &mut places, none, how)?.bytes))?;
        m.write_u32(out, n as u32)?;
        m.write(flags_out, &0u16.to_le_bytes()) // a stream cuts nothing off
    }

    pub fn sock_send(
        &self,
        m: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        flags: u32,
        out: u32,
    ) -> Result {
        known(flags, 0)?;
        let d = &*self.get(fd)?;
        let pieces = m.pieces(iovs, count, usize::MAX)?;
        let none = &mut SendAncillaryBuffer::default();
        // The kernel takes what there is room for; who does not want to wait gets that.
        let how = SendFlags::NOSIGNAL | if d.nonblock() { SendFlags::DONTWAIT } else { SendFlags::empty() };
        let n = d.patiently(PollFlags::OUT, || net::sendmsg(d, &pieces, none, how))?;
        m.write_u32(out, n as u32)
    }

    pub fn sock_shutdown(&self, _m: &mut Memory<'_>, fd: u32, how: u32) -> Result {
        let how = match how {
            1 => Shutdown::Read,
            2 => Shutdown::Write,
            3 => Shutdown::Both,
            _ => return Err(Errno::INVAL),
        };
        Ok(net::shutdown(&*self.get(fd)?, how)?)
    }

    /// The stream that a path names, which no other way leads to.
    fn stream(&self, dir: &Descriptor, path: &[u8]) -> Option<Arc<Descriptor>> {
        self.get(dir.place().stream(path)?).ok()
    }
}

/// Sizes of a subscription and an event.
const SUBSCRIPTION: u32 = 48;
const EVENT: usize = 32;

enum Subject {
    /// Until so many nanoseconds from the beginning.
    Clock(u64),
    Ready(Arc<Descriptor>, PollFlags),
}

struct Subscription {
    userdata: u64,
    subject: Result<Subject>,
    tag: u8,
}

struct Event {
    userdata: u64,
    error: Option<Errno>,
    tag: u8,
    bytes: u64,
    hangup: bool,
}

impl Guest {
    fn subscriptions(&self, m: &Memory<'_>, at: u32, count: u32) -> Result<Vec<Subscription>> {
        let size = count.checked_mul(SUBSCRIPTION).ok_or(Errno::INVAL)?;
        m.has(at, size)?; // all of it is there, and no address below overflows
        (0..count)
            .map(|i| {
                let at = at + i * SUBSCRIPTION;
                let tag = m.u8(at + 8)?;
                let subject = match tag {
                    0 => clock(m.u32(at + 16)?).map(|id| {
                        let (timeout, absolute) = (m.u64(at + 24), m.u16(at + 40));
                        let timeout = timeout.unwrap_or(0);
                        match absolute.unwrap_or(0) & 1 {
                            0 => Subject::Clock(timeout),
                            _ => Subject::Clock(timeout.saturating_sub(self.now(id))),
                        }
                    }),
                    1 => self.get(m.u32(at + 16)?).map(|d| Subject::Ready(d, PollFlags::IN)),
                    2 => self.get(m.u32(at + 16)?).map(|d| Subject::Ready(d, PollFlags::OUT)),
                    _ => return Err(Errno::INVAL),
                };
                Ok(Subscription { userdata: m.u64(at)?, subject, tag })
            })
            .collect()
    }
}

/// Waits for the first of what is subscribed to, and says all that is there then.
fn wait_for(subscriptions: &[Subscription]) -> Result<Vec<Event>> {
    // Where there is nothing to wait for, the call has the error. Beside others one is told of.
    if subscriptions.iter().all(|s| s.subject.is_err()) {
        let first = subscriptions.first().and_then(|s| s.subject.as_ref().err());
        return Err(*first.unwrap_or(&Errno::INVAL));
    }
    let begun = now(ClockId::Monotonic);
    let mut timeout = u64::MAX;
    let mut fds = Vec::new();
    for s in subscriptions {
        match &s.subject {
            Ok(Subject::Clock(ns)) => timeout = timeout.min(*ns),
            Ok(Subject::Ready(d, flags)) => fds.push(PollFd::new(&**d, *flags)),
            Err(_) => timeout = 0,
        }
    }
    let mut passed = 0;
    loop {
        let left = timeout.saturating_sub(passed);
        let time = Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let ready = match poll(&mut fds, if timeout == u64::MAX { None } else { Some(&time) }) {
            Ok(n) => n,
            Err(Kernel::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        passed = now(ClockId::Monotonic).saturating_sub(begun);
        if ready > 0 || passed >= timeout {
            break;
        }
    }
    let mut polled = fds.iter();
    Ok(subscriptions.iter().filter_map(|s| event(s, passed, &mut polled)).collect())
}

/// What has become of a subscription; polled are those of descriptors, in order.
fn event<'a>(
    s: &Subscription,
    passed: u64,
    polled: &mut impl Iterator<Item = &'a PollFd<'a>>,
) -> Option<Event> {
    let mut e = Event { userdata: s.userdata, error: None, tag: s.tag, bytes: 0, hangup: false };
    match &s.subject {
        Err(error) => e.error = Some(*error),
        Ok(Subject::Clock(ns)) => return (passed >= *ns).then_some(e),
        Ok(Subject::Ready(d, wanted)) => {
            let flags = polled.next()?.revents();
            if flags.is_empty() {
                return None;
            }
            e.hangup = flags.contains(PollFlags::HUP);
            e.bytes = if *wanted == PollFlags::IN { readable(d) } else { 1 };
        }
    }
    Some(e)
}

/// How many bytes there are to read, as far as that is known.
fn readable(d: &Descriptor) -> u64 {
    match fs::fstat(d) {
        Ok(stat) if file_type(&stat) == FileType::RegularFile => {
            let position = fs::tell(d).unwrap_or(0);
            (stat.st_size as u64).saturating_sub(position)
        }
        _ => rustix::io::ioctl_fionread(d).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::pipe;

    /// A guest with a pipe as 0 and 1, and memory.
    fn guest() -> (Guest, Vec<u8>) {
        let (read, write) = pipe().unwrap();
        let g = Guest::default();
        for fd in [read, write] {
            g.insert(Descriptor::new(Fd::Own(fd), Scope::Beneath, false)).unwrap();
        }
        (g, vec![0; 1 << 17])
    }

    fn put_piece(m: &mut Memory<'_>, at: u32, bytes: u32, len: u32) {
        m.write_u32(at, bytes).unwrap();
        m.write_u32(at + 4, len).unwrap();
    }

    fn subscribe(m: &mut Memory<'_>, at: u32, userdata: u64, tag: u8, fd: u32, timeout: u64) {
        m.write(at, &[0; SUBSCRIPTION as usize]).unwrap();
        m.write_u64(at, userdata).unwrap();
        m.write(at + 8, &[tag]).unwrap();
        m.write_u32(at + 16, fd).unwrap();
        m.write_u64(at + 24, timeout).unwrap();
    }

    #[test]
    fn one_call_moves_all_that_there_is() {
        let (g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        m.write(100, b"hello").unwrap();
        put_piece(m, 0, 100, 5);
        put_piece(m, 8, 200, 60_000);
        assert_eq!(g.fd_write(m, 1, 0, 2, 16), Ok(()));
        assert_eq!(m.u32(16), Ok(60_005));
        put_piece(m, 0, 1000, 0);
        put_piece(m, 8, 1000, 100_000);
        assert_eq!(g.fd_read(m, 0, 0, 2, 16), Ok(()));
        assert_eq!((m.u32(16), m.copy(1000, 5)), (Ok(60_005), Ok(b"hello".to_vec())));
    }

    #[test]
    fn a_guest_that_does_not_want_to_wait() {
        let (g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        put_piece(m, 0, 1000, 64_000);
        for fd in [0, 1] {
            assert_eq!(g.fd_fdstat_set_flags(m, fd, fdflags::NONBLOCK), Ok(()));
            assert_eq!(g.fd_fdstat_get(m, fd, 16), Ok(()));
            assert_eq!(m.u16(18).map(|f| u32::from(f) & fdflags::NONBLOCK), Ok(fdflags::NONBLOCK));
        }
        assert_eq!(g.fd_read(m, 0, 0, 1, 16), Err(Errno::AGAIN));
        let mut written = 0;
        let end = loop {
            match g.fd_write(m, 1, 0, 1, 16) {
                Ok(()) => written += m.u32(16).unwrap(),
                Err(e) => break e,
            }
        };
        assert_eq!((end, written), (Errno::AGAIN, 64 << 10));
        assert_eq!(g.fd_read(m, 0, 0, 1, 16), Ok(()));
        assert_eq!(m.u32(16), Ok(64_000));
    }

    /// Somebody else has set the kernel's flag: the guest waits all the same.
    #[test]
    fn a_pipe_of_others_that_do_not_want_to_wait() {
        let (g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        let writer = rustix::io::dup(&*g.get(1).unwrap()).unwrap();
        fs::fcntl_setfl(&*g.get(0).unwrap(), OFlags::NONBLOCK).unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            rustix::io::write(&writer, b"late").unwrap();
        });
        put_piece(m, 0, 1000, 64);
        assert_eq!(g.fd_read(m, 0, 0, 1, 16), Ok(()));
        assert_eq!(m.copy(1000, 4), Ok(b"late".to_vec()));
        late.join().unwrap();
    }

    #[test]
    fn a_pipe_without_readers() {
        let (g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        // Rust's tests ignore SIGPIPE, as the runner does.
        g.fd_close(m, 0).unwrap();
        put_piece(m, 0, 1000, 1);
        assert_eq!(g.fd_write(m, 1, 0, 1, 16), Err(Errno(64)));
        assert_eq!(g.fd_close(m, 0), Err(Errno::BADF));
    }

    #[test]
    fn polling() {
        let (g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        // Nothing to read: the clock comes first. A descriptor that is not there is
        // told of beside the others.
        subscribe(m, 0, 7, 1, 0, 0);
        subscribe(m, 48, 8, 0, 1, 1_000_000);
        assert_eq!(g.poll_oneoff(m, 0, 200, 2, 400), Ok(()));
        assert_eq!((m.u32(400), m.u64(200), m.u8(210)), (Ok(1), Ok(8), Ok(0)));
        // Something to read.
        rustix::io::write(&*g.get(1).unwrap(), b"abc").unwrap();
        subscribe(m, 48, 8, 0, 1, u64::MAX);
        subscribe(m, 96, 9, 2, 77, 0);
        assert_eq!(g.poll_oneoff(m, 0, 200, 3, 400), Ok(()));
        assert_eq!(m.u32(400), Ok(2));
        assert_eq!((m.u64(200), m.u8(210), m.u64(216), m.u16(224)), (Ok(7), Ok(1), Ok(3), Ok(0)));
        assert_eq!((m.u64(232), m.u16(240)), (Ok(9), Ok(Errno::BADF.0)));
        // The end of it.
        g.fd_close(m, 1).unwrap();
        assert_eq!(g.poll_oneoff(m, 0, 200, 1, 400), Ok(()));
        assert_eq!((m.u64(216), m.u64(224)), (Ok(3), Ok(1)));
        assert_eq!(g.poll_oneoff(m, 0, 200, 0, 400), Err(Errno::INVAL));
        assert_eq!(g.poll_oneoff(m, 0, 200, u32::MAX, 400), Err(Errno::INVAL));
        assert_eq!(g.poll_oneoff(m, 0, 200, 1 << 20, 400), Err(Errno::FAULT));
    }

    #[test]
    fn a_directory_is_no_file() {
        let (mut g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        g.give_dir(crate::files::open_dir(b"/").unwrap(), Scope::Beneath, b"/".to_vec());
        for (what, error) in [
            ("advise", g.fd_advise(m, 2, 0, 0, 0)),
            ("allocate", g.fd_allocate(m, 2, 0, 1)),
            ("size", g.fd_filestat_set_size(m, 2, 0)),
            ("seek", g.fd_seek(m, 2, u64::MAX, 0, 16)),
            ("tell", g.fd_tell(m, 2, 16)),
        ] {
            assert_eq!(error, Err(Errno::BADF), "{what}");
        }
        put_piece(m, 0, 1000, 5);
        assert_eq!(g.fd_write(m, 2, 0, 1, 16), Err(Errno::BADF));
        assert_eq!(g.fd_read(m, 2, 0, 1, 16), Err(Errno(31)));
    }

    #[test]
    fn a_directory_in_pieces() {
        let top = std::env::temp_dir().join(format!("wasmshim-readdir-{}", std::process::id()));
        std::fs::create_dir_all(&top).unwrap();
        let mut want = vec![".".to_string(), "..".to_string()];
        for i in 0..100 {
            let name = format!("{i}-{}", "x".repeat(i));
            std::fs::write(top.join(&name), "").unwrap();
            want.push(name);
        }
        let (mut g, mut bytes) = guest();
        let m = &mut Memory::from(&mut bytes[..]);
        g.give_dir(
            crate::files::open_dir(top.as_os_str().as_encoded_bytes()).unwrap(),
            Scope::Beneath,
            b"/d".to_vec(),
        );
        let (mut found, mut cookie) = (Vec::new(), 0);
        // As a C library does it: what is cut is read again.
        'all: loop {
            const SIZE: u32 = 300;
            g.fd_readdir(m, 2, 1000, SIZE, cookie, 16).unwrap();
            let used = m.u32(16).unwrap();
            let mut at = 0;
            while at + 24 <= used {
                let len = m.u32(1000 + at + 16).unwrap();
                if at + 24 + len > used {
                    break;
                }
                found.push(String::from_utf8(m.copy(1000 + at + 24, len).unwrap()).unwrap());
                cookie = m.u64(1000 + at).unwrap();
                at += 24 + len;
            }
            if used < SIZE {
                break 'all;
            }
        }
        std::fs::remove_dir_all(&top).unwrap();
        found.sort();
        want.sort();
        assert_eq!(found, want);
    }
}

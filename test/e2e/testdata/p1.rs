// SPDX-License-Identifier: Apache-2.0

//! WASI preview 1 as its specification has it, and POSIX where that one says "similar to":
//! each call, in the directory that the first argument names.

use cases::Cases;
use std::fs;

#[path = "cases.rs"]
mod cases;

/// The functions themselves: a C library would know better at times.
mod raw {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        pub fn args_sizes_get(count: *mut u32, size: *mut u32) -> u32;
        pub fn args_get(args: *mut *mut u8, bytes: *mut u8) -> u32;
        pub fn environ_sizes_get(count: *mut u32, size: *mut u32) -> u32;
        pub fn environ_get(all: *mut *mut u8, bytes: *mut u8) -> u32;
        pub fn clock_res_get(id: u32, out: *mut u64) -> u32;
        pub fn clock_time_get(id: u32, precision: u64, out: *mut u64) -> u32;
        pub fn fd_advise(fd: u32, offset: u64, len: u64, advice: u32) -> u32;
        pub fn fd_allocate(fd: u32, offset: u64, len: u64) -> u32;
        pub fn fd_close(fd: u32) -> u32;
        pub fn fd_datasync(fd: u32) -> u32;
        pub fn fd_fdstat_get(fd: u32, out: *mut super::FdStat) -> u32;
        pub fn fd_fdstat_set_flags(fd: u32, flags: u32) -> u32;
        pub fn fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64) -> u32;
        pub fn fd_filestat_get(fd: u32, out: *mut super::FileStat) -> u32;
        pub fn fd_filestat_set_size(fd: u32, size: u64) -> u32;
        pub fn fd_filestat_set_times(fd: u32, atime: u64, mtime: u64, flags: u32) -> u32;
        pub fn fd_pread(fd: u32, iovs: *const super::Piece, count: u32, at: u64, out: *mut u32) -> u32;
        pub fn fd_prestat_get(fd: u32, out: *mut [u32; 2]) -> u32;
        pub fn fd_prestat_dir_name(fd: u32, to: *mut u8, len: u32) -> u32;
        pub fn fd_pwrite(fd: u32, iovs: *const super::Piece, count: u32, at: u64, out: *mut u32) -> u32;
        pub fn fd_read(fd: u32, iovs: *const super::Piece, count: u32, out: *mut u32) -> u32;
        pub fn fd_readdir(fd: u32, to: *mut u8, len: u32, cookie: u64, out: *mut u32) -> u32;
        pub fn fd_renumber(fd: u32, to: u32) -> u32;
        pub fn fd_seek(fd: u32, offset: i64, whence: u32, out: *mut u64) -> u32;
        pub fn fd_sync(fd: u32) -> u32;
        pub fn fd_tell(fd: u32, out: *mut u64) -> u32;
        pub fn fd_write(fd: u32, iovs: *const super::Piece, count: u32, out: *mut u32) -> u32;
        pub fn path_create_directory(fd: u32, at: *const u8, len: usize) -> u32;
        pub fn path_filestat_get(
            fd: u32,
            how: u32,
            at: *const u8,
            len: usize,
            out: *mut super::FileStat,
        ) -> u32;
        pub fn path_filestat_set_times(
            fd: u32,
            how: u32,
            at: *const u8,
            len: usize,
            atime: u64,
            mtime: u64,
            flags: u32,
        ) -> u32;
        pub fn path_link(
            fd: u32,
            how: u32,
            at: *const u8,
            len: usize,
            to: u32,
            new: *const u8,
            new_len: usize,
        ) -> u32;
        #[allow(clippy::too_many_arguments)]
        pub fn path_open(
            fd: u32,
            how: u32,
            at: *const u8,
            len: usize,
            oflags: u32,
            base: u64,
            inheriting: u64,
            flags: u32,
            out: *mut u32,
        ) -> u32;
        pub fn path_readlink(
            fd: u32,
            at: *const u8,
            len: usize,
            to: *mut u8,
            size: u32,
            out: *mut u32,
        ) -> u32;
        pub fn path_remove_directory(fd: u32, at: *const u8, len: usize) -> u32;
        pub fn path_rename(
            fd: u32,
            at: *const u8,
            len: usize,
            to: u32,
            new: *const u8,
            new_len: usize,
        ) -> u32;
        pub fn path_symlink(text: *const u8, text_len: usize, fd: u32, at: *const u8, len: usize) -> u32;
        pub fn path_unlink_file(fd: u32, at: *const u8, len: usize) -> u32;
        pub fn poll_oneoff(
            subscriptions: *const super::Subscription,
            events: *mut super::Event,
            count: u32,
            out: *mut u32,
        ) -> u32;
        pub fn sched_yield() -> u32;
        pub fn random_get(at: *mut u8, len: u32) -> u32;
        pub fn sock_accept(fd: u32, flags: u32, out: *mut u32) -> u32;
        pub fn sock_recv(
            fd: u32,
            iovs: *const super::Piece,
            count: u32,
            how: u32,
            out: *mut u32,
            flags: *mut u16,
        ) -> u32;
        pub fn sock_send(fd: u32, iovs: *const super::Piece, count: u32, how: u32, out: *mut u32) -> u32;
        pub fn sock_shutdown(fd: u32, how: u32) -> u32;
    }
}

/// In the order of the specification, from 0 on.
const NAMES: &str = "success 2big acces addrinuse addrnotavail afnosupport again already badf badmsg busy canceled child \
    connaborted connrefused connreset deadlk destaddrreq dom dquot exist fault fbig hostunreach idrm ilseq inprogress intr \
    inval io isconn isdir loop mfile mlink msgsize multihop nametoolong netdown netreset netunreach nfile nobufs nodev noent \
    noexec nolck nolink nomem nomsg noprotoopt nospc nosys notconn notdir notempty notrecoverable notsock notsup notty nxio \
    overflow ownerdead perm pipe proto protonosupport prototype range rofs spipe srch stale timedout txtbsy xdev notcapable";

type Result<T = ()> = std::result::Result<T, &'static str>;

fn name(error: u32) -> &'static str {
    NAMES.split_whitespace().nth(error as usize).unwrap_or("no error of preview 1")
}

fn done<T>(error: u32, value: T) -> Result<T> {
    if error == 0 { Ok(value) } else { Err(name(error)) }
}

macro_rules! call {
    ($name:ident($($arg:expr),*)) => { done(unsafe { raw::$name($($arg),*) }, ()) };
    ($name:ident($($arg:expr),*) -> $type:ty) => {{
        let mut out = <$type>::default();
        let error = unsafe { raw::$name($($arg,)* &raw mut out) };
        done(error, out)
    }};
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FdStat {
    filetype: u8,
    flags: u16,
    base: u64,
    inheriting: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FileStat {
    dev: u64,
    ino: u64,
    filetype: u8,
    nlink: u64,
    size: u64,
    atim: u64,
    mtim: u64,
    ctim: u64,
}

#[repr(C)]
pub struct Piece {
    at: *const u8,
    len: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Subscription {
    userdata: u64,
    tag: u64,
    /// A clock's, or a descriptor.
    id: u32,
    timeout: u64,
    precision: u64,
    flags: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Event {
    userdata: u64,
    error: u16,
    kind: u8,
    bytes: u64,
    flags: u16,
}

const UNKNOWN: u8 = 0;
const CHARACTER: u8 = 2;
const DIRECTORY: u8 = 3;
const REGULAR: u8 = 4;
const LINK: u8 = 7;

const FOLLOW: u32 = 1;

const CREAT: u32 = 1;
const DIR: u32 = 2;
const EXCL: u32 = 4;
const TRUNC: u32 = 8;

const READ: u64 = 1 << 1;
const SEEK: u64 = 1 << 2;
const WRITE: u64 = 1 << 6;
const ALLOCATE: u64 = 1 << 8;
const READDIR: u64 = 1 << 14;
const SET_SIZE: u64 = 1 << 22;

const APPEND: u32 = 1;
const DSYNC: u32 = 2;
const NONBLOCK: u32 = 4;
const SYNC: u32 = 16;

/// Outside of any memory that a guest may have.
const NOWHERE: *mut u8 = (u32::MAX - 64) as *mut u8;
const NOBODY: u32 = 9999;

fn read_in(fd: u32, sizes: &[usize]) -> Result<String> {
    let mut bytes = vec![b'_'; sizes.iter().sum()];
    let mut at = bytes.as_mut_ptr();
    let pieces: Vec<_> = sizes
        .iter()
        .map(|&len| {
            let piece = Piece { at, len };
            at = at.wrapping_add(len);
            piece
        })
        .collect();
    let n = call!(fd_read(fd, pieces.as_ptr(), pieces.len() as u32) -> u32)?;
    bytes.truncate(n as usize);
    Ok(String::from_utf8_lossy(&bytes).into())
}

fn read(fd: u32, size: usize) -> Result<String> {
    read_in(fd, &[size])
}

fn pread(fd: u32, size: usize, at: u64) -> Result<String> {
    let mut bytes = vec![0; size];
    let piece = Piece { at: bytes.as_mut_ptr(), len: size };
    let n = call!(fd_pread(fd, &raw const piece, 1, at) -> u32)?;
    bytes.truncate(n as usize);
    Ok(String::from_utf8_lossy(&bytes).into())
}

fn pieces(text: &[&str]) -> Vec<Piece> {
    text.iter().map(|t| Piece { at: t.as_ptr(), len: t.len() }).collect()
}

fn write(fd: u32, text: &[&str]) -> Result<u32> {
    call!(fd_write(fd, pieces(text).as_ptr(), text.len() as u32) -> u32)
}

fn pwrite(fd: u32, text: &[&str], at: u64) -> Result<u32> {
    call!(fd_pwrite(fd, pieces(text).as_ptr(), text.len() as u32, at) -> u32)
}

fn seek(fd: u32, offset: i64, whence: u32) -> Result<u64> {
    call!(fd_seek(fd, offset, whence) -> u64)
}

fn tell(fd: u32) -> Result<u64> {
    call!(fd_tell(fd) -> u64)
}

fn fdstat(fd: u32) -> Result<FdStat> {
    call!(fd_fdstat_get(fd) -> FdStat)
}

fn filestat(fd: u32) -> Result<FileStat> {
    call!(fd_filestat_get(fd) -> FileStat)
}

fn close(fd: u32) -> Result {
    call!(fd_close(fd))
}

fn poll(all: &[Subscription]) -> Result<Vec<Event>> {
    let mut events = vec![Event::default(); all.len().max(1)];
    let n = call!(poll_oneoff(all.as_ptr(), events.as_mut_ptr(), all.len() as u32) -> u32)?;
    events.truncate(n as usize);
    Ok(events)
}

fn clock(userdata: u64, id: u32, timeout: u64, absolute: bool) -> Subscription {
    Subscription { userdata, id, timeout, flags: absolute.into(), ..Default::default() }
}

fn ready(userdata: u64, tag: u64, fd: u32) -> Subscription {
    Subscription { userdata, tag, id: fd, ..Default::default() }
}

fn now(id: u32) -> u64 {
    call!(clock_time_get(id, 0) -> u64).expect("a clock")
}

/// A directory that paths are relative to.
#[derive(Clone, Copy)]
struct Dir(u32);

impl Dir {
    fn open_as(self, how: u32, path: &str, oflags: u32, base: u64, flags: u32) -> Result<u32> {
        call!(path_open(self.0, how, path.as_ptr(), path.len(), oflags, base, !0, flags) -> u32)
    }
    fn open(self, path: &str, oflags: u32, base: u64) -> Result<u32> {
        self.open_as(FOLLOW, path, oflags, base, 0)
    }
    /// Opens and closes: for what an error is expected of.
    fn opens(self, how: u32, path: &str, oflags: u32, base: u64) -> Result {
        self.open_as(how, path, oflags, base, 0).map(|fd| close(fd).expect("closed"))
    }
    fn file(self, path: &str, text: &str) -> u32 {
        let fd = self.open(path, CREAT | TRUNC, READ | WRITE).expect("made");
        assert_eq!(pwrite(fd, &[text], 0), Ok(text.len() as u32));
        fd
    }
    fn make(self, path: &str, text: &str) {
        close(self.file(path, text)).expect("closed");
    }
    fn text(self, path: &str) -> Result<String> {
        let fd = self.open(path, 0, READ)?;
        let text = read(fd, 1000);
        close(fd)?;
        text
    }
    fn mkdir(self, path: &str) -> Result {
        call!(path_create_directory(self.0, path.as_ptr(), path.len()))
    }
    fn rmdir(self, path: &str) -> Result {
        call!(path_remove_directory(self.0, path.as_ptr(), path.len()))
    }
    fn unlink(self, path: &str) -> Result {
        call!(path_unlink_file(self.0, path.as_ptr(), path.len()))
    }
    fn symlink(self, text: &str, path: &str) -> Result {
        call!(path_symlink(text.as_ptr(), text.len(), self.0, path.as_ptr(), path.len()))
    }
    fn link(self, how: u32, path: &str, new: &str) -> Result {
        call!(path_link(self.0, how, path.as_ptr(), path.len(), self.0, new.as_ptr(), new.len()))
    }
    fn rename(self, path: &str, new: &str) -> Result {
        call!(path_rename(self.0, path.as_ptr(), path.len(), self.0, new.as_ptr(), new.len()))
    }
    fn stat(self, how: u32, path: &str) -> Result<FileStat> {
        call!(path_filestat_get(self.0, how, path.as_ptr(), path.len()) -> FileStat)
    }
    fn kind(self, how: u32, path: &str) -> Result<u8> {
        self.stat(how, path).map(|s| s.filetype)
    }
    fn times(self, how: u32, path: &str, atime: u64, mtime: u64, flags: u32) -> Result {
        call!(path_filestat_set_times(self.0, how, path.as_ptr(), path.len(), atime, mtime, flags))
    }
    fn readlink(self, path: &str, size: usize) -> Result<String> {
        let mut to = vec![0; size];
        let n = call!(path_readlink(self.0, path.as_ptr(), path.len(), to.as_mut_ptr(), size as u32) -> u32)?;
        to.truncate(n as usize);
        Ok(String::from_utf8_lossy(&to).into())
    }
}

/// What a directory has, in its order: cookie of the next, inode, type, name.
fn list(fd: u32, size: usize, mut cookie: u64) -> Result<Vec<(u64, u64, u8, String)>> {
    let mut found = Vec::new();
    loop {
        let mut to = vec![0u8; size];
        let used = call!(fd_readdir(fd, to.as_mut_ptr(), size as u32, cookie) -> u32)? as usize;
        let (mut at, before) = (0, found.len());
        while at + 24 <= used {
            let number = |from: usize, len: usize| {
                to[at + from..at + from + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b))
            };
            let end = at + 24 + number(16, 4) as usize;
            if end > used {
                break;
            }
            cookie = number(0, 8);
            found.push((
                cookie,
                number(8, 8),
                to[at + 20],
                String::from_utf8_lossy(&to[at + 24..end]).into(),
            ));
            at = end;
        }
        if used < size || found.len() == before {
            return Ok(found);
        }
    }
}

fn names(fd: u32, size: usize) -> Result<Vec<String>> {
    let mut names: Vec<_> = list(fd, size, 0)?.into_iter().map(|e| e.3).collect();
    names.sort();
    Ok(names)
}

type Sizes = unsafe extern "C" fn(*mut u32, *mut u32) -> u32;
type Strings = unsafe extern "C" fn(*mut *mut u8, *mut u8) -> u32;

fn strings(t: &mut Cases, what: &str, sizes: Sizes, get: Strings, want: &[&str]) {
    let (mut count, mut size) = (0, 0);
    t.is(what, done(unsafe { sizes(&raw mut count, &raw mut size) }, ()), Ok(()));
    let (mut all, mut bytes) = (vec![std::ptr::null_mut(); count as usize], vec![b'?'; size as usize + 1]);
    t.is(what, done(unsafe { get(all.as_mut_ptr(), bytes.as_mut_ptr()) }, ()), Ok(()));
    t.is(format!("{what}: the bytes that were said"), &bytes[size as usize - 1..], b"\0?");
    let texts: Vec<_> = all
        .iter()
        .map(|&at| unsafe { std::ffi::CStr::from_ptr(at.cast()) }.to_str().expect("UTF-8"))
        .collect();
    for text in want {
        t.yes(format!("{what} has {text:?}: {texts:?}"), texts.contains(text));
    }
    t.is(format!("{what}: sizes"), texts.iter().map(|s| s.len() + 1).sum::<usize>(), size as usize);
}

fn clocks(t: &mut Cases, host: u64) {
    for id in 0..4 {
        t.yes(format!("clock {id}: resolution"), call!(clock_res_get(id) -> u64).is_ok_and(|r| r > 0));
        let mut last = now(id);
        if id == 0 {
            t.yes("the time of day is the host's", last.abs_diff(host) < 600_000_000_000);
            continue; // may be set back
        }
        for precision in [0, 1, 1_000_000, u64::MAX].into_iter().cycle().take(1000) {
            let next = call!(clock_time_get(id, precision) -> u64).unwrap_or(0);
            if next < last {
                t.is(format!("clock {id} goes on"), next, last);
            }
            last = next;
        }
    }
    for id in [4, 99, u32::MAX] {
        t.is(format!("clock {id}: resolution"), call!(clock_res_get(id) -> u64), Err("inval"));
        t.is(format!("clock {id}: time"), call!(clock_time_get(id, 0) -> u64), Err("inval"));
    }
}

fn random(t: &mut Cases) {
    let mut all = [[0u8; 64]; 2];
    for bytes in &mut all {
        t.is("random", call!(random_get(bytes.as_mut_ptr(), 64)), Ok(()));
    }
    t.yes("random bytes differ", all[0] != all[1] && all[0] != [0; 64]);
    let mut large = vec![0u8; 1 << 20];
    t.is("random, 1 MiB", call!(random_get(large.as_mut_ptr(), 1 << 20)), Ok(()));
    t.yes("random to its end", large[(1 << 20) - 64..].iter().any(|b| *b != 0));
    t.is("random, nothing", call!(random_get(all[0].as_mut_ptr(), 0)), Ok(()));
    t.is("sched_yield", call!(sched_yield()), Ok(()));
}

fn read_and_write(t: &mut Cases, d: Dir) {
    let fd = d.file("rw", "0123456789");
    t.is("tell at first", tell(fd), Ok(0));
    t.is("read", read(fd, 4), Ok("0123".into()));
    t.is("read into pieces", read_in(fd, &[0, 2, 0, 3]), Ok("45678".into()));
    t.is("read what is left", read_in(fd, &[3, 3]), Ok("9".into()));
    t.is("read at the end", read(fd, 4), Ok(String::new()));
    t.is("read nothing", read(fd, 0), Ok(String::new()));
    t.is("read into no piece", read_in(fd, &[]), Ok(String::new()));
    t.is("write at the end", write(fd, &["ab", "", "cd"]), Ok(4));
    t.is("write nothing", write(fd, &[""]), Ok(0));
    t.is("write no piece", write(fd, &[]), Ok(0));
    t.is("tell", tell(fd), Ok(14));
    t.is("pread", pread(fd, 4, 8), Ok("89ab".into()));
    t.is("pread over the end", pread(fd, 40, 12), Ok("cd".into()));
    t.is("pread at the end", pread(fd, 4, 14), Ok(String::new()));
    t.is("pread beyond the end", pread(fd, 4, 1000), Ok(String::new()));
    t.is("pwrite", pwrite(fd, &["A", "B"], 10), Ok(2));
    t.is("pwrite beyond the end", pwrite(fd, &["z"], 16), Ok(1));
    t.is("neither moves", tell(fd), Ok(14));
    t.is("the gap is zeros", pread(fd, 40, 10), Ok("ABcd\0\0z".into()));
    t.is("pread, an offset that is none", pread(fd, 1, u64::MAX), Err("inval"));
    t.is("pwrite, an offset that is none", pwrite(fd, &["x"], u64::MAX), Err("inval"));
    for (what, offset, whence, want) in [
        ("set", 3, 0, Ok(3)),
        ("forth", 4, 1, Ok(7)),
        ("back", -2, 1, Ok(5)),
        ("from the end", -1, 2, Ok(16)),
        ("beyond the end", 100, 2, Ok(117)),
        ("to the end", 0, 2, Ok(17)),
        ("before the beginning", -1, 0, Err("inval")),
        ("back before the beginning", -18, 1, Err("inval")),
        ("before the beginning from the end", -18, 2, Err("inval")),
        ("from nowhere", 0, 3, Err("inval")),
        ("from nowhere at all", 0, 255, Err("inval")),
        ("and is where it was", 0, 1, Ok(17)),
    ] {
        t.is(format!("seek {what}"), seek(fd, offset, whence), want);
    }
    t.is("seek", seek(fd, 20, 0), Ok(20));
    t.is("write after a gap", write(fd, &["!"]), Ok(1));
    t.is("the gap", pread(fd, 10, 16), Ok("z\0\0\0!".into()));
    t.is("close", close(fd), Ok(()));
    t.is("close again", close(fd), Err("badf"));

    let reader = d.open("rw", 0, READ).expect("opened");
    t.is("write by a reader", write(reader, &["x"]), Err("badf"));
    t.is("pwrite by a reader", pwrite(reader, &["x"], 0), Err("badf"));
    t.is("allocate by a reader", call!(fd_allocate(reader, 0, 10)), Err("badf"));
    t.is("size by a reader", call!(fd_filestat_set_size(reader, 0)), Err("inval"));
    let writer = d.open("rw", 0, WRITE).expect("opened");
    t.is("read by a writer", read(writer, 1), Err("badf"));
    t.is("pread by a writer", pread(writer, 1, 0), Err("badf"));
    t.is("a descriptor's position is its own", (seek(reader, 2, 0), tell(writer)), (Ok(2), Ok(0)));
    t.is("a writer's rights", fdstat(writer).map(|s| s.base & (READ | WRITE)), Ok(WRITE));
    t.is("a reader's rights", fdstat(reader).map(|s| s.base & (READ | WRITE)), Ok(READ));

    let piece = Piece { at: NOWHERE, len: 1000 };
    t.is("read to nowhere", call!(fd_read(reader, &raw const piece, 1) -> u32), Err("fault"));
    t.is("write from nowhere", call!(fd_write(writer, &raw const piece, 1) -> u32), Err("fault"));
    t.is(
        "pieces from nowhere",
        call!(fd_write(writer, NOWHERE.cast_const().cast(), 100) -> u32),
        Err("fault"),
    );
    t.is("random to nowhere", call!(random_get(NOWHERE, 1000)), Err("fault"));
    t.is(
        "a stat to nowhere",
        done(unsafe { raw::fd_filestat_get(reader, NOWHERE.cast()) }, ()),
        Err("fault"),
    );
    t.is("a path from nowhere", call!(path_create_directory(d.0, NOWHERE, 1000)), Err("fault"));
    // Pieces that lie over each other are no error.
    let bytes = [0; 4];
    let overlapping = [0, 1].map(|i| Piece { at: &raw const bytes[i], len: 2 });
    seek(reader, 0, 0).expect("at the beginning");
    let n = call!(fd_read(reader, overlapping.as_ptr(), 2) -> u32);
    t.yes(format!("overlapping pieces: {n:?}"), matches!(n, Ok(2..=4)));
    for fd in [reader, writer] {
        close(fd).expect("closed");
    }
}

fn append(t: &mut Cases, d: Dir) {
    d.make("append", "begun");
    let fd = d.open_as(FOLLOW, "append", 0, READ | WRITE, APPEND).expect("opened");
    t.is("flags", fdstat(fd).map(|s| s.flags), Ok(APPEND as u16));
    t.is("append", (seek(fd, 0, 0), write(fd, &["+1"])), (Ok(0), Ok(2)));
    t.is("is then at the end", tell(fd), Ok(7));
    // Linux: "appends data to the end of the file, regardless of the value of offset".
    t.is("pwrite to the beginning", pwrite(fd, &["B"], 0), Ok(1));
    t.is("it is at the end", pread(fd, 100, 0), Ok("begun+1B".into()));
    t.is("no flags", call!(fd_fdstat_set_flags(fd, 0)), Ok(()));
    t.is("flags are none", fdstat(fd).map(|s| s.flags), Ok(0));
    t.is("write where it is", (seek(fd, 1, 0), write(fd, &["E"])), (Ok(1), Ok(1)));
    t.is("flags again", call!(fd_fdstat_set_flags(fd, APPEND | NONBLOCK)), Ok(()));
    t.is("flags are these", fdstat(fd).map(|s| s.flags), Ok((APPEND | NONBLOCK) as u16));
    t.is("append again", write(fd, &["+2"]), Ok(2));
    t.is("all of it", pread(fd, 100, 0), Ok("bEgun+1B+2".into()));
    t.is("flags that are none", call!(fd_fdstat_set_flags(fd, 1 << 9)), Err("inval"));
    close(fd).expect("closed");
    for flags in [DSYNC, SYNC, SYNC | APPEND] {
        let fd = d.open_as(FOLLOW, "append", 0, WRITE, flags).expect("opened");
        t.is(format!("opened with {flags}"), fdstat(fd).map(|s| u32::from(s.flags) & flags), Ok(flags));
        t.is("written", pwrite(fd, &["x"], 0), Ok(1));
        close(fd).expect("closed");
    }
}

fn sizes(t: &mut Cases, d: Dir) {
    let fd = d.file("sizes", "0123456789");
    seek(fd, 8, 0).expect("there");
    let acts: [(_, fn(u32) -> Result, _); 6] = [
        ("larger", |fd| call!(fd_filestat_set_size(fd, 20)), 20),
        ("smaller", |fd| call!(fd_filestat_set_size(fd, 5)), 5),
        ("allocate what is there", |fd| call!(fd_allocate(fd, 0, 5)), 5),
        ("allocate more", |fd| call!(fd_allocate(fd, 3, 10)), 13),
        ("allocate beyond", |fd| call!(fd_allocate(fd, 100, 10)), 110),
        ("allocate less", |fd| call!(fd_allocate(fd, 0, 1)), 110),
    ];
    for (what, act, size) in acts {
        t.is(what, act(fd), Ok(()));
        t.is(format!("{what}: size"), filestat(fd).map(|s| s.size), Ok(size));
    }
    t.is("content stays, the rest is zeros", pread(fd, 8, 0), Ok("01234\0\0\0".into()));
    t.is("the position stays", tell(fd), Ok(8));
    t.is("allocate nothing", call!(fd_allocate(fd, 0, 0)), Err("inval"));
    t.is("allocate too much", call!(fd_allocate(fd, i64::MAX as u64, 10)), Err("fbig"));
    t.is("a size that is none", call!(fd_filestat_set_size(fd, u64::MAX)), Err("inval"));
    for advice in 0..6 {
        t.is(format!("advice {advice}"), call!(fd_advise(fd, 0, 10, advice)), Ok(()));
    }
    t.is("advice for all of it", call!(fd_advise(fd, 0, 0, 0)), Ok(()));
    t.is("an advice that is none", call!(fd_advise(fd, 0, 10, 6)), Err("inval"));
    t.is("sync", call!(fd_sync(fd)), Ok(()));
    t.is("datasync", call!(fd_datasync(fd)), Ok(()));
    close(fd).expect("closed");
}

fn stats(t: &mut Cases, d: Dir) {
    let fd = d.file("stats", "0123456789");
    let by_fd = filestat(fd);
    t.is("a file by its path and its descriptor", d.stat(0, "stats"), by_fd);
    let stat = by_fd.expect("a file");
    t.is("what it is", (stat.filetype, stat.nlink, stat.size), (REGULAR, 1, 10));
    t.yes("its number", stat.ino != 0);
    t.is(
        "another file has another",
        d.stat(0, "rw").map(|s| (s.dev, s.ino != stat.ino)),
        Ok((stat.dev, true)),
    );
    let (old, new) = (1_000_000_001, 2_000_000_000_123_456_789);
    let times = |s: FileStat| (s.atim, s.mtim);
    t.is("set both", call!(fd_filestat_set_times(fd, old, new, 1 | 4)), Ok(()));
    t.is("both are", filestat(fd).map(times), Ok((old, new)));
    t.is("set one", call!(fd_filestat_set_times(fd, 5, 7, 1)), Ok(()));
    t.is("one is", filestat(fd).map(times), Ok((5, new)));
    t.is("set the other", d.times(0, "stats", 5, 7, 4), Ok(()));
    t.is("the other is", filestat(fd).map(times), Ok((5, 7)));
    t.is("set none", d.times(0, "stats", 99, 99, 0), Ok(()));
    t.is("none is", filestat(fd).map(times), Ok((5, 7)));
    t.is("set one to now", call!(fd_filestat_set_times(fd, 99, 99, 8)), Ok(()));
    let stat = filestat(fd).expect("a file");
    t.is("it is now", (stat.atim, now(0).abs_diff(stat.mtim) < 60_000_000_000), (5, true));
    for flags in [1 | 2, 4 | 8, 15, 16] {
        t.is(format!("set with {flags}"), call!(fd_filestat_set_times(fd, 1, 1, flags)), Err("inval"));
        t.is(format!("set with {flags} by path"), d.times(0, "stats", 1, 1, flags), Err("inval"));
    }
    d.symlink("stats", "to-stats").expect("linked");
    t.is("a link's size", d.stat(0, "to-stats").map(|s| (s.filetype, s.size)), Ok((LINK, 5)));
    t.is("what it leads to", d.stat(FOLLOW, "to-stats"), filestat(fd));
    t.is("set a link's times", d.times(0, "to-stats", 11, 12, 1 | 4), Ok(()));
    t.is("a link's times", d.stat(0, "to-stats").map(|s| s.mtim), Ok(12));
    t.is("not the file's", filestat(fd).map(|s| s.atim), Ok(5));
    t.is("set them by the link", d.times(FOLLOW, "to-stats", 21, 22, 1 | 4), Ok(()));
    t.is("the file's times", filestat(fd).map(times), Ok((21, 22)));
    t.is("a directory's times", d.times(0, ".", 31, 32, 1 | 4), Ok(()));
    t.is("a directory's times are", filestat(d.0).map(|s| s.mtim), Ok(32));
    t.is("nothing's", d.times(0, "nothing", 1, 1, 1), Err("noent"));
    close(fd).expect("closed");
    t.is("a closed one's", (filestat(fd), fdstat(fd)), (Err("badf"), Err("badf")));
}

fn directories(t: &mut Cases, d: Dir) {
    d.mkdir("list").expect("made");
    let empty = d.open("list", DIR, READDIR).expect("opened");
    t.is("an empty one", names(empty, 4096), Ok(vec![".".into(), "..".into()]));
    let stat = filestat(empty).expect("a directory");
    t.is("is a directory", stat.filetype, DIRECTORY);
    let entries = list(empty, 4096, 0).unwrap_or_default();
    t.is("itself", entries.iter().find(|e| e.3 == ".").map(|e| (e.1, e.2)), Some((stat.ino, DIRECTORY)));
    let mut want = vec![".".to_string(), "..".into()];
    for i in 0..60 {
        let name = format!("{i:02}{}", "x".repeat(i));
        d.make(&format!("list/{name}"), "");
        want.push(name);
    }
    d.mkdir("list/sub").expect("made");
    d.symlink("none", "list/to").expect("linked");
    want.extend(["sub".into(), "to".into()]);
    want.sort();
    t.is("from its beginning", names(empty, 4096), Ok(want.clone()));
    t.is("in small pieces", names(empty, 200), Ok(want.clone()));
    t.is("in large ones", names(empty, 1 << 20), Ok(want.clone()));
    let all = list(empty, 4096, 0).unwrap_or_default();
    for i in [0, 1, 30, 62, 63] {
        let rest = list(empty, 4096, all[i].0).map(|l| l.into_iter().map(|e| e.3).collect::<Vec<_>>());
        t.is(format!("from entry {i} on"), rest, Ok(all[i + 1..].iter().map(|e| e.3.clone()).collect()));
    }
    for (name, kind) in [("00", REGULAR), ("sub", DIRECTORY), ("to", LINK)] {
        let entry = all.iter().find(|e| e.3 == name).map(|e| (e.1, e.2));
        t.is(name, entry, d.stat(0, &format!("list/{name}")).ok().map(|s| (s.ino, kind)));
    }
    for size in [0, 1, 23, 24, 25] {
        let mut to = [0; 32];
        t.is(
            format!("{size} bytes of it"),
            call!(fd_readdir(empty, to.as_mut_ptr(), size, 0) -> u32),
            Ok(size),
        );
    }
    t.is("to nowhere", call!(fd_readdir(empty, NOWHERE, 1000, 0) -> u32), Err("fault"));
    let file = d.open("rw", 0, READ).expect("opened");
    t.is("of a file", names(file, 4096), Err("notdir"));
    t.is("of nobody", names(NOBODY, 4096), Err("badf"));

    // What is no directory's.
    let base =
        fdstat(empty).map(|s| (s.filetype, s.flags, s.base & (SEEK | READ | WRITE | SET_SIZE | ALLOCATE)));
    t.is("its state", base, Ok((DIRECTORY, 0, 0)));
    t.is("its rights", fdstat(empty).map(|s| s.base & READDIR), Ok(READDIR));
    t.is(
        "a file's below it",
        fdstat(empty).map(|s| s.inheriting & (READ | WRITE | SEEK)),
        Ok(READ | WRITE | SEEK),
    );
    t.is("read", read(empty, 1), Err("isdir"));
    t.is("pread", pread(empty, 1, 0), Err("isdir"));
    for (what, found) in [
        ("write", write(empty, &["x"]).map(|_| ())),
        ("pwrite", pwrite(empty, &["x"], 0).map(|_| ())),
        ("seek", seek(empty, 0, 0).map(|_| ())),
        ("tell", tell(empty).map(|_| ())),
        ("advise", call!(fd_advise(empty, 0, 0, 0))),
        ("allocate", call!(fd_allocate(empty, 0, 1))),
        ("size", call!(fd_filestat_set_size(empty, 0))),
    ] {
        t.is(format!("{what} of a directory"), found, Err("badf"));
    }
    t.is("sync of a directory", call!(fd_sync(empty)), Ok(()));

    // Paths are relative to directories alone.
    for (fd, error) in [(file, "notdir"), (NOBODY, "badf")] {
        let no = Dir(fd);
        for (what, found) in [
            ("open", no.opens(0, "x", 0, READ)),
            ("mkdir", no.mkdir("x")),
            ("rmdir", no.rmdir("x")),
            ("unlink", no.unlink("x")),
            ("symlink", no.symlink("y", "x")),
            ("link", no.link(0, "x", "y")),
            ("rename", no.rename("x", "y")),
            ("stat", no.stat(0, "x").map(|_| ())),
            ("times", no.times(0, "x", 1, 1, 1)),
            ("readlink", no.readlink("x", 9).map(|_| ())),
        ] {
            t.is(format!("{what} below {fd}"), found, Err(error));
        }
    }
    close(empty).expect("closed");
    close(file).expect("closed");
}

fn opening(t: &mut Cases, d: Dir) {
    d.make("file", "hello");
    d.mkdir("sub").expect("made");
    d.make("sub/inner", "inner");
    for (text, path) in
        [("file", "to-file"), ("sub", "to-sub"), ("none", "to-none"), ("loop", "loop"), ("../file", "sub/up")]
    {
        d.symlink(text, path).expect("linked");
    }
    let long = "n".repeat(256);
    for (what, how, path, oflags, base, want) in [
        ("a file", 0, "file", 0, READ, Ok(())),
        ("without rights", 0, "file", 0, 0, Ok(())),
        ("none", 0, "none", 0, READ, Err("noent")),
        ("below none", 0, "none/x", CREAT, WRITE, Err("noent")),
        ("below a file", 0, "file/x", CREAT, WRITE, Err("notdir")),
        ("nothing", 0, "", 0, READ, Err("noent")),
        ("exclusively", 0, "new", CREAT | EXCL, WRITE, Ok(())),
        ("exclusively again", 0, "new", CREAT | EXCL, WRITE, Err("exist")),
        ("what is there", 0, "new", CREAT, WRITE, Ok(())),
        ("exclusively what a link leads to", 0, "to-none", CREAT | EXCL, WRITE, Err("exist")),
        ("exclusively by a link", FOLLOW, "to-none", CREAT | EXCL, WRITE, Err("exist")),
        ("a file as a directory", 0, "file", DIR, READ, Err("notdir")),
        ("a file with a slash", 0, "file/", 0, READ, Err("notdir")),
        ("a file with slashes", 0, "file//", 0, READ, Err("notdir")),
        ("a directory", 0, "sub", DIR, READ, Ok(())),
        ("a directory with a slash", 0, "sub/", DIR, READ, Ok(())),
        ("a directory with slashes", 0, "sub//", 0, READ, Ok(())),
        ("a directory, not said", 0, "sub", 0, READ, Ok(())),
        ("itself", 0, ".", DIR, READ, Ok(())),
        ("a directory to write", 0, "sub", 0, WRITE, Err("isdir")),
        ("a directory to read and write", 0, "sub", DIR, READ | WRITE, Err("isdir")),
        ("a directory to be made", 0, "sub", CREAT, READ, Err("isdir")),
        ("a directory to be cut", 0, "sub", TRUNC, WRITE, Err("isdir")),
        ("a link", 0, "to-file", 0, READ, Err("loop")),
        ("a link to write", 0, "to-file", TRUNC, WRITE, Err("loop")),
        ("a link to nothing", 0, "to-none", 0, READ, Err("loop")),
        ("a link to nothing, to be made", 0, "to-none", CREAT, WRITE, Err("loop")),
        ("a link as a directory", 0, "to-sub", DIR, READ, Err("notdir")),
        ("by a link", FOLLOW, "to-file", 0, READ, Ok(())),
        ("by a link to a directory", FOLLOW, "to-sub", DIR, READ, Ok(())),
        ("below a link", 0, "to-sub/inner", 0, READ, Ok(())),
        ("by a link to nothing", FOLLOW, "to-none", 0, READ, Err("noent")),
        ("by a link to itself", FOLLOW, "loop", 0, READ, Err("loop")),
        ("below a link to itself", 0, "loop/x", 0, READ, Err("loop")),
        ("by a link with ..", FOLLOW, "sub/up", 0, READ, Ok(())),
        ("there and back", 0, "sub/.././/sub/../sub///inner", 0, READ, Ok(())),
        ("by a file and back", 0, "file/../file", 0, READ, Err("notdir")),
        ("by none and back", 0, "none/../file", 0, READ, Err("noent")),
        ("absolute", 0, "/file", 0, READ, Err("perm")),
        ("the root", 0, "/", 0, READ, Err("perm")),
        ("above", 0, "..", 0, READ, Err("perm")),
        ("above, with a slash", 0, "../", 0, READ, Err("perm")),
        ("above and back", 0, "../d/file", 0, READ, Err("perm")),
        ("above from below", 0, "sub/../../d/file", 0, READ, Err("perm")),
        ("with a NUL", 0, "file\0", 0, READ, Err("inval")),
        ("with a NUL inside", 0, "fi\0le", 0, READ, Err("inval")),
        ("a long name", 0, long.as_str(), CREAT, WRITE, Err("nametoolong")),
    ] {
        t.is(format!("open {what}"), d.opens(how, path, oflags, base), want);
    }
    t.is("a long path", d.opens(0, &"x/".repeat(3000), 0, READ), Err("nametoolong"));
    for (what, how, oflags, flags) in [("lookup", 2, 0, 0), ("open", 0, 16, 0), ("descriptor", 0, 0, 32)] {
        t.is(
            format!("{what} flags that are none"),
            d.open_as(how, "file", oflags, READ, flags),
            Err("inval"),
        );
    }
    t.is("made by a link", d.opens(FOLLOW, "to-none", CREAT, WRITE), Ok(()));
    t.is("is there", (d.unlink("none"), d.kind(0, "to-none")), (Ok(()), Ok(LINK)));
    t.is("cut", (d.opens(0, "new", TRUNC, WRITE), d.text("new")), (Ok(()), Ok(String::new())));
    let fd = d.open("sub/../file", 0, READ).expect("opened");
    t.yes("a number that is small", fd < 1 << 31);
    t.is("a name that goes", (d.unlink("file"), read(fd, 9)), (Ok(()), Ok("hello".into())));
    t.is("has no links then", filestat(fd).map(|s| s.nlink), Ok(0));
    close(fd).expect("closed");
    t.is(
        "a terminal is not opened for ever",
        d.open_as(0, "sub", DIR, READ, NONBLOCK).map(|fd| close(fd)),
        Ok(Ok(())),
    );

    // A directory that was opened is one for paths, and confines as the first one does.
    let sub = Dir(d.open("sub", DIR, READ).expect("opened"));
    t.is("below it", sub.text("inner"), Ok("inner".into()));
    t.is("above it", sub.opens(0, "../new", 0, READ), Err("perm"));
    t.is("above it by a link", sub.opens(FOLLOW, "up", 0, READ), Err("perm"));
    t.is("without its name", (d.rename("sub", "moved"), sub.text("inner")), (Ok(()), Ok("inner".into())));
    for path in ["inner", "up"] {
        sub.unlink(path).expect("removed");
    }
    t.is("without any", (d.rmdir("moved"), sub.mkdir("x")), (Ok(()), Err("noent")));
    close(sub.0).expect("closed");
}

fn changes(t: &mut Cases, d: Dir) {
    d.make("f", "f");
    for dir in ["a", "full"] {
        d.mkdir(dir).expect("made");
    }
    d.make("full/x", "x");
    d.symlink("f", "l").expect("linked");
    d.symlink("a", "la").expect("linked");
    d.symlink("gone", "lost").expect("linked");
    for (what, found, want) in [
        ("mkdir", d.mkdir("b"), Ok(())),
        ("mkdir with a slash", d.mkdir("c/"), Ok(())),
        ("mkdir below", d.mkdir("b/c"), Ok(())),
        ("mkdir of what is there", d.mkdir("b"), Err("exist")),
        ("mkdir of a file", d.mkdir("f"), Err("exist")),
        ("mkdir of a link to nothing", d.mkdir("lost"), Err("exist")),
        ("mkdir below nothing", d.mkdir("gone/x"), Err("noent")),
        ("mkdir below a file", d.mkdir("f/x"), Err("notdir")),
        ("mkdir of itself", d.mkdir("."), Err("exist")),
        ("mkdir of nothing", d.mkdir(""), Err("noent")),
        ("mkdir above", d.mkdir("../x"), Err("perm")),
        ("rmdir", d.rmdir("b/c"), Ok(())),
        ("rmdir with a slash", d.rmdir("c/"), Ok(())),
        ("rmdir of a full one", d.rmdir("full"), Err("notempty")),
        ("rmdir of a file", d.rmdir("f"), Err("notdir")),
        ("rmdir of a file with a slash", d.rmdir("f/"), Err("notdir")),
        ("rmdir of a link", d.rmdir("la"), Err("notdir")),
        ("rmdir of nothing", d.rmdir("gone"), Err("noent")),
        ("rmdir of itself", d.rmdir("."), Err("inval")),
        ("rmdir above", d.rmdir("../d"), Err("perm")),
        ("unlink of a directory", d.unlink("a"), Err("isdir")),
        ("unlink of a directory with a slash", d.unlink("a/"), Err("isdir")),
        ("unlink of a file with a slash", d.unlink("f/"), Err("notdir")),
        ("unlink of nothing", d.unlink("gone"), Err("noent")),
        ("unlink of a link with a slash", d.unlink("l/"), Err("notdir")),
        ("unlink above", d.unlink("../out"), Err("perm")),
        ("unlink of a link", d.unlink("l"), Ok(())),
        ("symlink", d.symlink("f", "l"), Ok(())),
        ("symlink to nothing", d.symlink("anything", "l2"), Ok(())),
        ("symlink where one is", d.symlink("x", "l2"), Err("exist")),
        ("symlink where a file is", d.symlink("x", "f"), Err("exist")),
        ("symlink where a directory is", d.symlink("x", "a/"), Err("exist")),
        ("symlink with a slash", d.symlink("x", "l3/"), Err("noent")),
        ("symlink below nothing", d.symlink("x", "gone/l"), Err("noent")),
        ("symlink without a text", d.symlink("", "l3"), Err("noent")),
        ("symlink that is absolute", d.symlink("/etc", "l3"), Err("perm")),
        ("symlink above", d.symlink("x", "../l"), Err("perm")),
        ("link", d.link(0, "f", "h"), Ok(())),
        ("link where one is", d.link(0, "f", "h"), Err("exist")),
        ("link of itself", d.link(0, "f", "f"), Err("exist")),
        ("link where a directory is", d.link(0, "f", "a"), Err("exist")),
        ("link of nothing", d.link(0, "gone", "h2"), Err("noent")),
        ("link of a directory", d.link(0, "a", "h2"), Err("perm")),
        ("link of a file with a slash", d.link(0, "f/", "h2"), Err("notdir")),
        ("link with a slash", d.link(0, "f", "h2/"), Err("noent")),
        ("link below nothing", d.link(0, "f", "gone/h"), Err("noent")),
        ("link of a link", d.link(0, "l", "hl"), Ok(())),
        ("link by a link", d.link(FOLLOW, "l", "h2"), Err("inval")),
        ("link above", d.link(0, "f", "../h"), Err("perm")),
        ("link from above", d.link(0, "../out", "h2"), Err("perm")),
    ] {
        t.is(what, found, want);
    }
    t.is("a link's other name is a link", d.kind(0, "hl"), Ok(LINK));
    t.is("two names, one file", d.stat(0, "h"), d.stat(0, "f"));
    t.is("two links", d.stat(0, "h").map(|s| s.nlink), Ok(2));
    t.is("readlink", d.readlink("l2", 100), Ok("anything".into()));
    t.is("readlink, of which there is room for some", d.readlink("l2", 3), Ok("any".into()));
    t.is("readlink, just enough", d.readlink("l2", 8), Ok("anything".into()));
    t.is("readlink of a file", d.readlink("f", 9), Err("inval"));
    t.is("readlink of a directory", d.readlink("a", 9), Err("inval"));
    t.is("readlink of nothing", d.readlink("gone", 9), Err("noent"));
    t.is("readlink above", d.readlink("../out", 9), Err("perm"));
    for (path, how, want) in [
        ("f", 0, Ok(REGULAR)),
        ("l", 0, Ok(LINK)),
        ("l", FOLLOW, Ok(REGULAR)),
        ("la", FOLLOW, Ok(DIRECTORY)),
        ("la/", 0, Ok(DIRECTORY)),
        ("lost", 0, Ok(LINK)),
        ("lost", FOLLOW, Err("noent")),
        ("f/", 0, Err("notdir")),
        ("a/", 0, Ok(DIRECTORY)),
        (".", 0, Ok(DIRECTORY)),
        ("a/..", 0, Ok(DIRECTORY)),
        ("..", 0, Err("perm")),
        ("loop", 0, Ok(LINK)),
        ("loop", FOLLOW, Err("loop")),
    ] {
        t.is(format!("stat {path}, {how}"), d.kind(how, path), want);
    }
    d.make("g", "g");
    d.mkdir("a2").expect("made");
    for (what, from, to, want) in [
        ("a file", "g", "g2", Ok(())),
        ("what is gone", "g", "g3", Err("noent")),
        ("to itself", "g2", "g2", Ok(())),
        ("to its other name", "h", "f", Ok(())),
        ("over a file", "g2", "h", Ok(())),
        ("a file over a directory", "h", "a", Err("isdir")),
        ("a file to a slash", "h", "h9/", Err("notdir")),
        ("a file with a slash", "h/", "h9", Err("notdir")),
        ("a file over a link", "h", "lost", Ok(())),
        ("a directory over a file", "a", "f", Err("notdir")),
        ("a directory", "a", "a3", Ok(())),
        ("a directory with a slash", "a3/", "a4", Ok(())),
        ("a directory to a slash", "a4", "a5/", Ok(())),
        ("over an empty directory", "a5", "a2", Ok(())),
        ("over a full directory", "a2", "full", Err("notempty")),
        ("into itself", "full", "full/in", Err("inval")),
        ("itself", ".", "x", Err("busy")),
        ("to itself's name", "full", ".", Err("busy")),
        ("a link", "l", "l9", Ok(())),
        ("below nothing", "f", "gone/x", Err("noent")),
        ("below a file", "full", "f/x", Err("notdir")),
        ("nothing", "", "x", Err("noent")),
        ("to nothing", "f", "", Err("noent")),
        ("above", "f", "../x", Err("perm")),
        ("from above", "../out", "x", Err("perm")),
    ] {
        t.is(format!("rename {what}"), d.rename(from, to), want);
    }
    t.is("a name that a file has lost", d.text("lost"), Ok("g".into()));
    t.is("a link that was moved", d.readlink("l9", 9), Ok("f".into()));
    t.is("what is outside", fs::read_to_string("/work/out").ok(), Some("outside".into()));
}

fn renumber(t: &mut Cases, d: Dir) {
    let (a, b) = (d.file("ra", "aaa"), d.file("rb", "bbb"));
    let number = |fd| filestat(fd).map(|s| s.ino);
    let stat = number(a);
    t.is("renumber", call!(fd_renumber(a, b)), Ok(()));
    t.is("the old number", fdstat(a).map(|_| ()), Err("badf"));
    t.is("the new one", number(b), stat);
    t.is("keeps its position", (seek(b, 1, 0), read(b, 9)), (Ok(1), Ok("aa".into())));
    t.is("onto itself", call!(fd_renumber(b, b)), Ok(()));
    t.is("is there", number(b), stat);
    t.is("from nobody", call!(fd_renumber(NOBODY, b)), Err("badf"));
    t.is("to nobody", call!(fd_renumber(b, NOBODY)), Err("badf"));
    t.is("nobody onto itself", call!(fd_renumber(NOBODY, NOBODY)), Err("badf"));
    t.is("is still there", number(b), stat);
    t.is("the old number is free", d.open("rb", 0, READ), Ok(a));
    close(a).expect("closed");
    close(b).expect("closed");
}

/// Rights are not kept, but nobody gets more of them.
fn rights(t: &mut Cases, d: Dir) {
    let fd = d.open("rw", 0, READ).expect("opened");
    let stat = fdstat(fd).expect("a file");
    t.is("the same", call!(fd_fdstat_set_rights(fd, stat.base, stat.inheriting)), Ok(()));
    t.is("more", call!(fd_fdstat_set_rights(fd, stat.base | WRITE, stat.inheriting)), Err("notcapable"));
    t.is("more below", call!(fd_fdstat_set_rights(fd, stat.base, !0)), Err("notcapable"));
    t.is("of nobody", call!(fd_fdstat_set_rights(NOBODY, 0, 0)), Err("badf"));
    close(fd).expect("closed");
}

fn preopens(t: &mut Cases, d: Dir, name: &str) {
    let mut to = [b'?'; 8];
    let len = name.len() as u32;
    t.is("a name's length", call!(fd_prestat_get(d.0) -> [u32; 2]), Ok([0, len]));
    t.is("too little room", call!(fd_prestat_dir_name(d.0, to.as_mut_ptr(), len - 1)), Err("nametoolong"));
    t.is("the name", call!(fd_prestat_dir_name(d.0, to.as_mut_ptr(), len)), Ok(()));
    t.is("no NUL behind it", &to[..name.len() + 1], [name.as_bytes(), b"?"].concat().as_slice());
    for fd in [0, 1, 2, NOBODY, u32::MAX] {
        t.is(format!("{fd} is none"), call!(fd_prestat_get(fd) -> [u32; 2]), Err("badf"));
    }
    let other = d.open(".", DIR, READ).expect("opened");
    t.is("one that was opened is none", call!(fd_prestat_get(other) -> [u32; 2]), Err("badf"));
    // Whoever takes its place is none, either.
    let again = d.open(".", DIR, READ).expect("opened");
    t.is("renumber over it", call!(fd_renumber(other, d.0)), Ok(()));
    t.is("is none", call!(fd_prestat_get(d.0) -> [u32; 2]), Err("badf"));
    t.is("but a directory", d.text("rw").map(|_| ()), Ok(()));
    t.is("close it", close(d.0), Ok(()));
    t.is("is closed", (d.text("rw").map(|_| ()), fdstat(d.0).map(|_| ())), (Err("badf"), Err("badf")));
    close(again).expect("closed");
}

fn polling(t: &mut Cases, d: Dir) {
    let kinds = |events: Result<Vec<Event>>| {
        events.map(|all| all.iter().map(|e| (e.userdata, e.error, e.kind)).collect::<Vec<_>>())
    };
    t.is("nothing", poll(&[]), Err("inval"));
    for (what, id, timeout, absolute, least) in [
        ("no time", 1, 0, false, 0),
        ("some time", 1, 5_000_000, false, 5_000_000),
        ("some time of the day", 0, 5_000_000, false, 5_000_000),
        ("until then", 1, now(1) + 5_000_000, true, 1),
        ("until then of the day", 0, now(0) + 5_000_000, true, 1),
        ("long ago", 1, 1, true, 0),
        ("the beginning", 0, 0, true, 0),
    ] {
        let begun = now(1);
        t.is(
            what,
            poll(&[clock(7, id, timeout, absolute)]),
            Ok(vec![Event { userdata: 7, ..Default::default() }]),
        );
        let passed = now(1) - begun;
        t.yes(format!("{what}: {passed}"), passed >= least || absolute);
    }
    let hour = 3_600_000_000_000;
    t.is(
        "the earlier one",
        kinds(poll(&[clock(1, 1, hour, false), clock(2, 1, 1_000_000, false)])),
        Ok(vec![(2, 0, 0)]),
    );
    t.is(
        "both that are over",
        kinds(poll(&[clock(1, 1, 0, false), clock(2, 0, 1, true)])),
        Ok(vec![(1, 0, 0), (2, 0, 0)]),
    );
    t.is(
        "a clock that is none",
        kinds(poll(&[clock(1, 9, 0, false), clock(2, 1, hour, false)])),
        Ok(vec![(1, 28, 0)]),
    );
    let fd = d.file("poll", "0123456789");
    let event = |userdata, kind, bytes| Event { userdata, kind, bytes, ..Default::default() };
    t.is("a file to read", poll(&[ready(1, 1, fd), clock(2, 1, hour, false)]), Ok(vec![event(1, 1, 10)]));
    seek(fd, 4, 0).expect("there");
    t.is("the rest of it", poll(&[ready(1, 1, fd)]), Ok(vec![event(1, 1, 6)]));
    t.is("and to write", kinds(poll(&[ready(1, 1, fd), ready(2, 2, fd)])), Ok(vec![(1, 0, 1), (2, 0, 2)]));
    t.is("nobody", kinds(poll(&[ready(1, 1, NOBODY), clock(2, 1, hour, false)])), Ok(vec![(1, 8, 1)]));
    t.is(
        "nobody, and a file",
        kinds(poll(&[ready(1, 2, NOBODY), ready(2, 1, fd)])),
        Ok(vec![(1, 8, 2), (2, 0, 1)]),
    );
    t.is("nobody alone", poll(&[ready(1, 1, NOBODY), ready(2, 2, NOBODY)]), Err("badf"));
    t.is("what is neither", poll(&[ready(1, 3, fd)]), Err("inval"));
    close(fd).expect("closed");
}

/// What is no socket.
fn no_sockets(t: &mut Cases, d: Dir) {
    let file = d.open("rw", 0, READ).expect("opened");
    for (fd, error) in [(file, "notsock"), (d.0, "notsock"), (0, "notsock"), (NOBODY, "badf")] {
        let mut flags = 0;
        let bytes = [0; 4];
        let piece = Piece { at: bytes.as_ptr(), len: 4 };
        t.is(format!("shutdown {fd}"), call!(sock_shutdown(fd, 3)), Err(error));
        t.is(format!("accept {fd}"), call!(sock_accept(fd, 0) -> u32), Err(error));
        t.is(format!("send {fd}"), call!(sock_send(fd, &raw const piece, 1, 0) -> u32), Err(error));
        let mut n = 0u32;
        let received = unsafe { raw::sock_recv(fd, &raw const piece, 1, 0, &raw mut n, &raw mut flags) };
        t.is(format!("receive {fd}"), done(received, ()), Err(error));
    }
    close(file).expect("closed");
}

/// The standard streams, which are of the kind that the argument says.
fn streams(t: &mut Cases, kind: &str) {
    let filetype = match kind {
        // Many guests take a character device for a terminal.
        "fifo" | "null" => UNKNOWN,
        "terminal" => CHARACTER,
        _ => REGULAR,
    };
    if kind == "null" {
        t.is(
            "type",
            (fdstat(0).map(|s| s.filetype), fdstat(1).map(|s| s.filetype)),
            (Ok(filetype), Ok(filetype)),
        );
        t.is("read", read(0, 1), Ok(String::new()));
        t.is("write", write(1, &["x", "y"]), Ok(2));
        return;
    }
    for fd in 0..3 {
        t.is(format!("{fd}: type"), fdstat(fd).map(|s| s.filetype), Ok(filetype));
        t.is(format!("{fd}: type by stat"), filestat(fd).map(|s| s.filetype), Ok(filetype));
        t.is(format!("{fd}: no flags"), fdstat(fd).map(|s| u32::from(s.flags) & NONBLOCK), Ok(0));
        t.is(format!("{fd}: prestat"), call!(fd_prestat_get(fd) -> [u32; 2]), Err("badf"));
        t.is(format!("{fd}: list"), names(fd, 4096), Err("notdir"));
        if kind != "file" {
            t.is(format!("{fd}: seek"), seek(fd, 0, 1), Err("spipe"));
            t.is(format!("{fd}: tell"), tell(fd), Err("spipe"));
            t.is(format!("{fd}: size"), call!(fd_filestat_set_size(fd, 0)), Err("inval"));
        }
    }
    if kind == "fifo" {
        t.is("pread", pread(0, 1, 0), Err("spipe"));
        t.is("pwrite", pwrite(1, &["x"], 0), Err("spipe"));
        t.is("advise", call!(fd_advise(0, 0, 0, 0)), Err("spipe"));
        t.is("allocate", call!(fd_allocate(1, 0, 1)), Err("spipe"));
        t.is("sync", call!(fd_sync(1)), Err("inval"));
        t.is("read what is written to", read(1, 1), Err("badf"));
        t.is("write what is read", write(0, &["x"]), Err("badf"));
    }
    let kinds = |events: Result<Vec<Event>>| {
        events.map(|all| all.iter().map(|e| (e.userdata, e.error, e.kind)).collect::<Vec<_>>())
    };
    t.is("may be written", kinds(poll(&[ready(1, 2, 1), ready(2, 2, 2)])), Ok(vec![(1, 0, 2), (2, 0, 2)]));
    // Of which there is nothing yet.
    if kind != "file" {
        t.is("does not want to wait", call!(fd_fdstat_set_flags(0, NONBLOCK)), Ok(()));
        t.is("says so", fdstat(0).map(|s| u32::from(s.flags) & NONBLOCK), Ok(NONBLOCK));
        t.is("nothing to read", read(0, 9), Err("again"));
        t.is("not ready", kinds(poll(&[ready(1, 1, 0), clock(2, 1, 1_000_000, false)])), Ok(vec![(2, 0, 0)]));
        t.is("wants to", call!(fd_fdstat_set_flags(0, 0)), Ok(()));
    }
    // Now the other side writes.
    t.is("asks", write(1, &["go\n"]), Ok(3));
    t.is("ready", kinds(poll(&[ready(1, 1, 0)])), Ok(vec![(1, 0, 1)]));
    t.is("a part of it", read(0, 2), Ok("in".into()));
    t.is("the rest", read(0, 100), Ok("put\n".into()));
    if kind != "terminal" {
        t.is("its end", read(0, 100), Ok(String::new()));
        t.is("its end is ready", kinds(poll(&[ready(1, 1, 0)])), Ok(vec![(1, 0, 1)]));
    }
    t.is("close", close(0), Ok(()));
    t.is("is closed", read(0, 1), Err("badf"));
}

/// A socket that listens as 3, to which somebody connects and says "hello\n" twice.
fn sockets(t: &mut Cases) {
    let listener = 3;
    t.is("a socket", fdstat(listener).map(|s| s.filetype), Ok(6));
    t.is("does not want to wait", call!(fd_fdstat_set_flags(listener, NONBLOCK)), Ok(()));
    t.is("nobody yet", call!(sock_accept(listener, 0) -> u32), Err("again"));
    t.is("wants to", call!(fd_fdstat_set_flags(listener, 0)), Ok(()));
    t.is("flags that are none", call!(sock_accept(listener, 1) -> u32), Err("inval"));
    t.is("read of one that listens", read(listener, 1), Err("notconn"));
    println!("listening");
    let kinds = |events: Result<Vec<Event>>| {
        events.map(|all| all.iter().map(|e| (e.userdata, e.error, e.kind)).collect::<Vec<_>>())
    };
    t.is("somebody", kinds(poll(&[ready(1, 1, listener)])), Ok(vec![(1, 0, 1)]));
    let fd = call!(sock_accept(listener, NONBLOCK) -> u32).expect("somebody");
    let stat = fdstat(fd).expect("a socket");
    t.is("a socket with flags", (stat.filetype, u32::from(stat.flags)), (6, NONBLOCK));
    t.is("wants to wait", call!(fd_fdstat_set_flags(fd, 0)), Ok(()));
    let receive = |size: usize, how: u32| {
        let mut bytes = vec![0; size];
        let piece = Piece { at: bytes.as_mut_ptr(), len: size };
        let (mut n, mut flags) = (0u32, 99u16);
        let error = unsafe { raw::sock_recv(fd, &raw const piece, 1, how, &raw mut n, &raw mut flags) };
        bytes.truncate(n as usize);
        done(error, (String::from_utf8_lossy(&bytes).to_string(), flags))
    };
    t.is("all that is waited for", receive(6, 2), Ok(("hello\n".into(), 0)));
    t.is("asks for more", write(fd, &["more\n"]), Ok(5));
    t.is("looks at it", receive(3, 1), Ok(("hel".into(), 0)));
    t.is("and takes it", receive(6, 2), Ok(("hello\n".into(), 0)));
    t.is("flags that are none", receive(1, 4), Err("inval"));
    let send = |how| call!(sock_send(fd, pieces(&["by", "e\n"]).as_ptr(), 2, how) -> u32);
    t.is("sends with flags", send(1), Err("inval"));
    let mut sent = String::new();
    t.yes(
        "sends",
        send(0).is_ok_and(|n| {
            sent = "bye\n"[n as usize..].into();
            n > 0
        }),
    );
    if !sent.is_empty() {
        t.is("sends the rest", write(fd, &[&sent]), Ok(sent.len() as u32));
    }
    t.is("seek", seek(fd, 0, 1), Err("spipe"));
    t.is("shuts nothing", call!(sock_shutdown(fd, 0)), Err("inval"));
    t.is("shuts what is neither", call!(sock_shutdown(fd, 4)), Err("inval"));
    t.is("shuts its half", call!(sock_shutdown(fd, 2)), Ok(()));
    t.is("sends no more", send(0), Err("pipe"));
    t.is("reads on, to the end", receive(1, 0), Ok((String::new(), 0)));
    t.is("closes", (close(fd), close(fd)), (Ok(()), Err("badf")));
    t.is("shuts what listens", call!(sock_shutdown(listener, 1)), Ok(()));
}

fn main() {
    let args_: Vec<_> = std::env::args().collect();
    let mut t = Cases::default();
    match args_[1].as_str() {
        "files" => {
            // Preopens have numbers one after the other.
            let fd = (3..)
                .find(|&fd| {
                    let mut to = [0; 2];
                    let len = call!(fd_prestat_get(fd) -> [u32; 2]).expect("a preopen")[1];
                    len == 2 && call!(fd_prestat_dir_name(fd, to.as_mut_ptr(), 2)).is_ok() && to == *b"/d"
                })
                .expect("given");
            let d = Dir(fd);
            strings(
                &mut t,
                "args",
                raw::args_sizes_get,
                raw::args_get,
                &["/p1.wasm", "files", "/d", "", "a b"],
            );
            strings(&mut t, "environ", raw::environ_sizes_get, raw::environ_get, &["EMPTY=", "EQUALS=a=b"]);
            clocks(&mut t, std::env::var("NOW").expect("the time").parse().expect("a number"));
            random(&mut t);
            read_and_write(&mut t, d);
            append(&mut t, d);
            sizes(&mut t, d);
            stats(&mut t, d);
            directories(&mut t, d);
            opening(&mut t, d);
            changes(&mut t, d);
            renumber(&mut t, d);
            rights(&mut t, d);
            polling(&mut t, d);
            no_sockets(&mut t, d);
            preopens(&mut t, d, "/d");
        }
        "streams" => streams(&mut t, &args_[2]),
        "sockets" => sockets(&mut t),
        other => panic!("{other}: what is that?"),
    }
    t.end();
}

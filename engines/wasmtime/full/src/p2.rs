// SPDX-License-Identifier: Apache-2.0

//! The file system of preview 2: wasmtime's, but that the kernel resolves paths, as
//! wasmshim_wasi::files says, and that its errors are the guest's.

use crate::streams::Stream;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmshim_wasi::errno::Errno;
use wasmshim_wasi::files::{Place, Scope, file_type, is_process_root};
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, Dir, File, OpenMode, WasiFilesystemCtxView, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    ErrorCode, HostDescriptor as Wasmtime, HostDirectoryEntryStream as Entries,
};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    Filesize, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags,
    PathFlags,
};
use wasmtime_wasi::p2::bindings::sync::io::streams::{Error, InputStream, OutputStream};
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi::{FsPerms, WasiView};

/// Replaces wasmtime's file system in a linker.
pub fn define<T: WasiView>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<_, Files>(linker, view)?;
    types::add_to_linker::<_, Files>(linker, view)
}

pub fn view<T: WasiView>(data: &mut T) -> View<'_> {
    View(data.filesystem())
}

pub struct Files;

impl HasData for Files {
    type Data<'a> = View<'a>;
}

pub struct View<'a>(WasiFilesystemCtxView<'a>);

/// wasmtime keeps with a descriptor how it was opened, in bits of which it looks at
/// two. Beside those are a directory's scope, and that a file is a standard stream.
const PROCESS: OpenMode = OpenMode::from_bits_retain(1 << 8);
const ROOT: OpenMode = OpenMode::from_bits_retain(1 << 9);
const STREAM: OpenMode = OpenMode::from_bits_retain(1 << 10);

fn bits(scope: Scope) -> OpenMode {
    match scope {
        Scope::Process => PROCESS,
        Scope::Root => ROOT,
        Scope::Beneath => OpenMode::empty(),
    }
}

fn place(d: &Dir) -> Place<'_> {
    let scope = [Scope::Process, Scope::Root]
        .into_iter()
        .find(|s| d.open_mode.contains(bits(*s)))
        .unwrap_or(Scope::Beneath);
    Place { dir: d.dir.as_fd(), scope }
}

fn code(e: Errno) -> ErrorCode {
    match e.0 {
        2 => ErrorCode::Access,
        6 => ErrorCode::WouldBlock,
        7 => ErrorCode::Already,
        8 => ErrorCode::BadDescriptor,
        10 => ErrorCode::Busy,
        16 => ErrorCode::Deadlock,
        19 => ErrorCode::Quota,
        20 => ErrorCode::Exist,
        22 => ErrorCode::FileTooLarge,
        25 => ErrorCode::IllegalByteSequence,
        26 => ErrorCode::InProgress,
        27 => ErrorCode::Interrupted,
        28 => ErrorCode::Invalid,
        31 => ErrorCode::IsDirectory,
        32 => ErrorCode::Loop,
        34 => ErrorCode::TooManyLinks,
        35 => ErrorCode::MessageSize,
        37 => ErrorCode::NameTooLong,
        43 => ErrorCode::NoDevice,
        44 => ErrorCode::NoEntry,
        46 => ErrorCode::NoLock,
        48 => ErrorCode::InsufficientMemory,
        51 => ErrorCode::InsufficientSpace,
        54 => ErrorCode::NotDirectory,
        55 => ErrorCode::NotEmpty,
        56 => ErrorCode::NotRecoverable,
        52 | 58 => ErrorCode::Unsupported,
        59 => ErrorCode::NoTty,
        60 => ErrorCode::NoSuchDevice,
        61 => ErrorCode::Overflow,
        63 => ErrorCode::NotPermitted,
        64 => ErrorCode::Pipe,
        69 => ErrorCode::ReadOnly,
        70 => ErrorCode::InvalidSeek,
        74 => ErrorCode::TextFileBusy,
        75 => ErrorCode::CrossDevice,
        _ => ErrorCode::Io,
    }
}

fn failed(e: Errno) -> FsError {
    code(e).into()
}

/// wasmtime's own functions do what they do in the thread that calls them, as the
/// config says, and wait for nothing: no runtime is needed for it, nor disturbed.
fn done<T>(act: impl Future<Output = T>) -> T {
    match std::pin::pin!(act).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("a file that is waited for"),
    }
}

fn follow(flags: PathFlags) -> bool {
    flags.contains(PathFlags::SYMLINK_FOLLOW)
}

/// Where they are more than a second, the kernel says so; but to it two numbers of them are
/// no times.
pub fn nanoseconds(n: u32) -> i64 {
    n.min(1_000_000_000).into()
}

fn time(t: NewTimestamp) -> Timespec {
    match t {
        NewTimestamp::NoChange => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        NewTimestamp::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        NewTimestamp::Timestamp(t) => Timespec {
            tv_sec: i64::try_from(t.seconds).unwrap_or(i64::MAX),
            tv_nsec: nanoseconds(t.nanoseconds),
        },
    }
}

fn open_flags(path: PathFlags, open: OpenFlags, flags: DescriptorFlags) -> OFlags {
    let mut to = OFlags::NOCTTY;
    for (set, flag) in [
        (open.contains(OpenFlags::CREATE), OFlags::CREATE),
        (open.contains(OpenFlags::DIRECTORY), OFlags::DIRECTORY),
        (open.contains(OpenFlags::EXCLUSIVE), OFlags::EXCL),
        (open.contains(OpenFlags::TRUNCATE), OFlags::TRUNC),
        (flags.contains(DescriptorFlags::DATA_INTEGRITY_SYNC), OFlags::DSYNC),
        (flags.contains(DescriptorFlags::FILE_INTEGRITY_SYNC), OFlags::SYNC),
        (!follow(path), OFlags::NOFOLLOW),
    ] {
        if set {
            to |= flag;
        }
    }
    to | match (flags.contains(DescriptorFlags::READ), flags.contains(DescriptorFlags::WRITE)) {
        (_, false) => OFlags::RDONLY,
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
    }
}

impl View<'_> {
    fn dir(&self, fd: &Resource<Descriptor>) -> FsResult<&Dir> {
        match self.0.table.get(fd)? {
            Descriptor::Dir(d) => Ok(d),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// Does something that changes a directory, or looks at it, with its place.
    fn at<T>(
        &self,
        fd: &Resource<Descriptor>,
        act: impl FnOnce(Place<'_>) -> Result<T, Errno>,
    ) -> FsResult<T> {
        act(place(self.dir(fd)?)).map_err(failed)
    }

    /// What a path names, as a descriptor that is good for looking at it.
    pub fn find(
        &mut self,
        fd: &Resource<Descriptor>,
        flags: PathFlags,
        path: &str,
    ) -> FsResult<Resource<Descriptor>> {
        let found = self.at(fd, |p| p.find(path.as_bytes(), follow(flags)))?;
        let found = File::new(found.into(), FsPerms::ReadWrite, OpenMode::empty(), true);
        Ok(self.0.table.push(Descriptor::File(found))?)
    }

    /// All that the kernel knows of it.
    pub fn fstat(&self, fd: &Resource<Descriptor>) -> FsResult<Stat> {
        let stat = match self.0.table.get(fd)? {
            Descriptor::Dir(d) => fstat(&d.dir),
            Descriptor::File(f) => fstat(&f.file),
        };
        stat.map_err(|e| failed(e.into()))
    }

    pub fn set_both_times_at(
        &self,
        fd: &Resource<Descriptor>,
        flags: PathFlags,
        path: &str,
        last_access: Timespec,
        last_modification: Timespec,
    ) -> FsResult<()> {
        let times = Timestamps { last_access, last_modification };
        self.at(fd, |p| p.set_times(path.as_bytes(), follow(flags), &times))
    }

    /// Does something that wasmtime has for descriptors alone, with what a path names.
    fn with<T>(
        &mut self,
        fd: &Resource<Descriptor>,
        flags: PathFlags,
        path: &str,
        act: impl FnOnce(&mut Self, Resource<Descriptor>) -> FsResult<T>,
    ) -> FsResult<T> {
        let found = self.find(fd, flags, path)?;
        let done = act(self, Resource::new_borrow(found.rep()));
        self.0.table.delete(found)?;
        done
    }

    /// Opens a file; the bits are for how it was opened.
    fn open(&self, d: &Dir, path: &str, flags: OFlags, is_followed: bool) -> FsResult<(OwnedFd, OpenMode)> {
        let p = place(d);
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
        match p.open(path.as_bytes(), flags, mode) {
            Ok(fd) => Ok((fd, OpenMode::empty())),
            // /dev/stdout and the like.
            Err(e) if is_followed => {
                let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
                let Some(n) = p.stream(path.as_bytes()) else { return Err(failed(e)) };
                let fd = rustix::io::fcntl_dupfd_cloexec(streams[n as usize], 3);
                Ok((fd.map_err(|e| failed(e.into()))?, STREAM))
            }
            Err(e) => Err(failed(e)),
        }
    }

    /// A file that is read and written without saying where: a pipe, a terminal. Each has
    /// to be opened for what is to be done.
    fn pipe(&self, fd: &Resource<Descriptor>, mode: OpenMode) -> FsResult<Option<Arc<std::fs::File>>> {
        let Descriptor::File(f) = self.0.table.get(fd)? else { return Ok(None) };
        if !f.open_mode.contains(mode) {
            return Err(ErrorCode::BadDescriptor.into());
        }
        let stat = fstat(&f.file).map_err(|e| failed(e.into()))?;
        Ok(match file_type(&stat) {
            FileType::Fifo | FileType::CharacterDevice | FileType::Socket => Some(f.file.clone()),
            _ => f.open_mode.contains(STREAM).then(|| f.file.clone()),
        })
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let given = preopens::Host::get_directories(&mut self.0)?;
        for (fd, name) in &given {
            if let Descriptor::Dir(d) = self.0.table.get_mut(fd)? {
                let host: &[u8] = if is_process_root(&d.dir) { b"/" } else { b"" };
                d.open_mode |= bits(Scope::of(host, name.as_bytes()));
            }
        }
        Ok(given)
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, err: FsError) -> wasmtime::Result<types::ErrorCode> {
        types::Host::convert_error_code(&mut self.0, err)
    }

    fn filesystem_error_code(&mut self, err: Resource<Error>) -> wasmtime::Result<Option<types::ErrorCode>> {
        let err = self.0.table.get(&err)?;
        let number = err.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        Ok(number.map(|n| code(rustix::io::Errno::from_raw_os_error(n).into()).into()))
    }
}

/// What takes a path is here; the rest is wasmtime's, which may wait in its own way for
/// what it does, also where the guest is called asynchronously.
impl HostDescriptor for View<'_> {
    fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.at(&fd, |p| p.make_dir(path.as_bytes()))
    }

    fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.with(&fd, flags, &path, |v, found| v.stat(found))
    }

    fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FsResult<()> {
        self.set_both_times_at(&fd, flags, &path, time(atime), time(mtime))
    }

    fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        if follow(flags) {
            return Err(ErrorCode::Invalid.into());
        }
        let to = place(self.dir(&new_fd)?);
        self.at(&fd, |p| p.link(path.as_bytes(), to, new_path.as_bytes()))
    }

    fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let d = self.dir(&fd)?;
        let (file, mut mode) =
            self.open(d, &path, open_flags(path_flags, open, flags), follow(path_flags))?;
        let is_dir = file_type(&fstat(&file).map_err(|e| failed(e.into()))?) == FileType::Directory;
        // What is not opened to be written is opened to be read.
        mode.set(
            OpenMode::READ,
            flags.contains(DescriptorFlags::READ) || !flags.contains(DescriptorFlags::WRITE),
        );
        let write = if is_dir { DescriptorFlags::MUTATE_DIRECTORY } else { DescriptorFlags::WRITE };
        mode.set(OpenMode::WRITE, flags.contains(write));
        let opened = if is_dir {
            let mode = mode | bits(place(d).scope.below());
            Descriptor::Dir(Dir::new(file.into(), FsPerms::ReadWrite, mode, true))
        } else {
            Descriptor::File(File::new(file.into(), FsPerms::ReadWrite, mode, true))
        };
        Ok(self.0.table.push(opened)?)
    }

    fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        let text = self.at(&fd, |p| p.read_link(path.as_bytes()))?;
        String::from_utf8(text).map_err(|_| ErrorCode::IllegalByteSequence.into())
    }

    fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.at(&fd, |p| p.remove_dir(path.as_bytes()))
    }

    fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let to = place(self.dir(&new_fd)?);
        self.at(&fd, |p| p.rename(path.as_bytes(), to, new_path.as_bytes()))
    }

    fn symlink_at(&mut self, fd: Resource<Descriptor>, text: String, path: String) -> FsResult<()> {
        self.at(&fd, |p| p.symlink(text.as_bytes(), path.as_bytes()))
    }

    fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.at(&fd, |p| p.unlink(path.as_bytes()))
    }

    fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.with(&fd, flags, &path, |v, found| v.metadata_hash(found))
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, at: Filesize) -> FsResult<Resource<InputStream>> {
        match self.pipe(&fd, OpenMode::READ)? {
            Some(file) => Ok(self.0.table.push(Box::new(Stream::input(file)) as InputStream)?),
            None => HostDescriptor::read_via_stream(&mut self.0, fd, at),
        }
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        at: Filesize,
    ) -> FsResult<Resource<OutputStream>> {
        match self.pipe(&fd, OpenMode::WRITE)? {
            Some(file) => Ok(self.0.table.push(Box::new(Stream::output(file)) as OutputStream)?),
            None => HostDescriptor::write_via_stream(&mut self.0, fd, at),
        }
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<OutputStream>> {
        match self.pipe(&fd, OpenMode::WRITE)? {
            Some(_) => self.write_via_stream(fd, 0),
            None => HostDescriptor::append_via_stream(&mut self.0, fd),
        }
    }

    fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        at: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        done(Wasmtime::advise(&mut self.0, fd, at, len, advice.into()))
    }

    fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        done(Wasmtime::sync_data(&mut self.0, fd))
    }

    fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        done(Wasmtime::get_flags(&mut self.0, fd)).map(Into::into)
    }

    fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        done(Wasmtime::get_type(&mut self.0, fd)).map(Into::into)
    }

    fn set_size(&mut self, fd: Resource<Descriptor>, size: Filesize) -> FsResult<()> {
        done(Wasmtime::set_size(&mut self.0, fd, size))
    }

    fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FsResult<()> {
        done(Wasmtime::set_times(&mut self.0, fd, atime.into(), mtime.into()))
    }

    fn read(&mut self, fd: Resource<Descriptor>, len: Filesize, at: Filesize) -> FsResult<(Vec<u8>, bool)> {
        done(Wasmtime::read(&mut self.0, fd, len, at))
    }

    fn write(&mut self, fd: Resource<Descriptor>, bytes: Vec<u8>, at: Filesize) -> FsResult<Filesize> {
        done(Wasmtime::write(&mut self.0, fd, bytes, at))
    }

    fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        done(Wasmtime::read_directory(&mut self.0, fd))
    }

    fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        done(Wasmtime::sync(&mut self.0, fd))
    }

    fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        done(Wasmtime::stat(&mut self.0, fd)).map(Into::into)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.0, fd)
    }

    fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> wasmtime::Result<bool> {
        done(Wasmtime::is_same_object(&mut self.0, a, b))
    }

    fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        done(Wasmtime::metadata_hash(&mut self.0, fd)).map(Into::into)
    }
}

impl HostDirectoryEntryStream for View<'_> {
    fn read_directory_entry(
        &mut self,
        s: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        done(Entries::read_directory_entry(&mut self.0, s)).map(|e| e.map(Into::into))
    }

    fn drop(&mut self, s: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.0, s)
    }
}

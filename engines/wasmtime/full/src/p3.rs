// SPDX-License-Identifier: Apache-2.0

//! The file system of preview 3: paths are what they are to preview 2, which is asked;
//! streams and what else is about a descriptor are wasmtime's.

use crate::p2::{Files, View, nanoseconds, view};
use rustix::fs::{Timespec, UTIME_NOW, UTIME_OMIT};
use wasmtime::AsContextMut;
use wasmtime::component::{Access, Accessor, FutureReader, Linker, Resource, StreamReader};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode as Code2;
use wasmtime_wasi::p2::bindings::sync::filesystem::types as p2;
use wasmtime_wasi::p2::{FsError, FsResult};
use wasmtime_wasi::p3::bindings::clocks::system_clock::Instant;
use wasmtime_wasi::p3::bindings::filesystem::preopens;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, ErrorCode, Filesize,
    HostDescriptor, HostDescriptorWithStore, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::{FilesystemError, FilesystemResult};

type Ours<S> = Accessor<S, Files>;
type Streamed<T> = wasmtime::Result<(StreamReader<T>, FutureReader<Result<(), ErrorCode>>)>;

/// Replaces wasmtime's file system in a linker.
pub fn define<S: WasiView>(linker: &mut Linker<S>) -> wasmtime::Result<()> {
    preopens::add_to_linker::<_, Files>(linker, view)?;
    types::add_to_linker::<_, Files>(linker, view)
}

/// wasmtime's own, for what takes no path.
fn theirs<S: WasiView>(store: &Ours<S>) -> Accessor<S, WasiFilesystem> {
    store.with_getter::<WasiFilesystem>(|data| data.filesystem())
}

fn their_access<'a, S: WasiView>(store: &'a mut Access<'_, S, Files>) -> Access<'a, S, WasiFilesystem> {
    Access::new(store.as_context_mut(), |data| data.filesystem())
}

/// Asks preview 2.
fn ask<S: WasiView, T>(
    store: &Ours<S>,
    act: impl FnOnce(&mut View<'_>) -> FsResult<T>,
) -> FilesystemResult<T> {
    store.with(|mut access| act(&mut access.get())).map_err(|e| match e.downcast() {
        Ok(code) => self::code(code).into(),
        Err(trap) => FilesystemError::trap(trap),
    })
}

/// wasmtime's, with the kernel's own times: it has wrong ones for what is before 1970.
async fn stat<S: WasiView>(store: &Ours<S>, fd: &Resource<Descriptor>) -> FilesystemResult<DescriptorStat> {
    let mut stat = WasiFilesystem::stat(&theirs(store), Resource::new_borrow(fd.rep())).await?;
    let exact = ask(store, |v| v.fstat(fd))?;
    let instant = |seconds, nanoseconds| Some(Instant { seconds, nanoseconds: nanoseconds as u32 });
    stat.data_access_timestamp = instant(exact.st_atime, exact.st_atime_nsec);
    stat.data_modification_timestamp = instant(exact.st_mtime, exact.st_mtime_nsec);
    stat.status_change_timestamp = instant(exact.st_ctime, exact.st_ctime_nsec);
    Ok(stat)
}

macro_rules! codes {
    ($($name:ident)*) => {
        fn code(e: Code2) -> ErrorCode {
            match e {
                // There is no such thing here.
                Code2::WouldBlock => ErrorCode::Busy,
                $(Code2::$name => ErrorCode::$name,)*
            }
        }
    };
}

codes! {
    Access Already BadDescriptor Busy Deadlock Quota Exist FileTooLarge IllegalByteSequence InProgress
    Interrupted Invalid Io IsDirectory Loop TooManyLinks MessageSize NameTooLong NoDevice NoEntry NoLock
    InsufficientMemory InsufficientSpace NotDirectory NotEmpty NotRecoverable Unsupported NoTty
    NoSuchDevice Overflow NotPermitted Pipe ReadOnly InvalidSeek TextFileBusy CrossDevice
}

macro_rules! flags {
    ($name:ident: $type:ident $($flag:ident)*) => {
        fn $name(flags: $type) -> p2::$type {
            let mut to = p2::$type::empty();
            $(if flags.contains($type::$flag) { to |= p2::$type::$flag; })*
            to
        }
    };
}

flags! { path_flags: PathFlags SYMLINK_FOLLOW }
flags! { open_flags: OpenFlags CREATE DIRECTORY EXCLUSIVE TRUNCATE }
flags! { descriptor_flags: DescriptorFlags
    READ WRITE FILE_INTEGRITY_SYNC DATA_INTEGRITY_SYNC REQUESTED_WRITE_SYNC MUTATE_DIRECTORY
}

/// Unlike preview 2 this one has numbers for what is before 1970.
fn time(t: NewTimestamp) -> Timespec {
    match t {
        NewTimestamp::NoChange => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        NewTimestamp::Now => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        NewTimestamp::Timestamp(t) => Timespec { tv_sec: t.seconds, tv_nsec: nanoseconds(t.nanoseconds) },
    }
}

impl preopens::Host for View<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        wasmtime_wasi::p2::bindings::filesystem::preopens::Host::get_directories(self)
    }
}

impl types::Host for View<'_> {
    fn convert_error_code(&mut self, e: FilesystemError) -> wasmtime::Result<ErrorCode> {
        e.downcast()
    }
}

impl HostDescriptor for View<'_> {
    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        p2::HostDescriptor::drop(self, fd)
    }
}

impl<S: WasiView> HostDescriptorWithStore<S> for Files {
    async fn create_directory_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::create_directory_at(v, fd, path))
    }

    async fn stat_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<DescriptorStat> {
        let found = ask(store, |v| v.find(&fd, path_flags(flags), &path))?;
        let stat = stat(store, &found).await;
        ask(store, |v| p2::HostDescriptor::drop(v, found).map_err(FsError::trap))?;
        stat
    }

    async fn set_times_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FilesystemResult<()> {
        ask(store, |v| v.set_both_times_at(&fd, path_flags(flags), &path, time(atime), time(mtime)))
    }

    async fn link_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::link_at(v, fd, path_flags(flags), path, new_fd, new_path))
    }

    async fn open_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        open: OpenFlags,
        how: DescriptorFlags,
    ) -> FilesystemResult<Resource<Descriptor>> {
        let (flags, open, how) = (path_flags(flags), open_flags(open), descriptor_flags(how));
        ask(store, |v| p2::HostDescriptor::open_at(v, fd, flags, path, open, how))
    }

    async fn readlink_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<String> {
        ask(store, |v| p2::HostDescriptor::readlink_at(v, fd, path))
    }

    async fn remove_directory_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        path: String,
    ) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::remove_directory_at(v, fd, path))
    }

    async fn rename_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::rename_at(v, fd, path, new_fd, new_path))
    }

    async fn symlink_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        text: String,
        path: String,
    ) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::symlink_at(v, fd, text, path))
    }

    async fn unlink_file_at(store: &Ours<S>, fd: Resource<Descriptor>, path: String) -> FilesystemResult<()> {
        ask(store, |v| p2::HostDescriptor::unlink_file_at(v, fd, path))
    }

    async fn metadata_hash_at(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FilesystemResult<MetadataHashValue> {
        let hash = ask(store, |v| p2::HostDescriptor::metadata_hash_at(v, fd, path_flags(flags), path))?;
        Ok(MetadataHashValue { lower: hash.lower, upper: hash.upper })
    }

    fn read_via_stream(
        mut store: Access<'_, S, Self>,
        fd: Resource<Descriptor>,
        at: Filesize,
    ) -> Streamed<u8> {
        WasiFilesystem::read_via_stream(their_access(&mut store), fd, at)
    }

    fn write_via_stream(
        mut store: Access<'_, S, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
        at: Filesize,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        WasiFilesystem::write_via_stream(their_access(&mut store), fd, data, at)
    }

    fn append_via_stream(
        mut store: Access<'_, S, Self>,
        fd: Resource<Descriptor>,
        data: StreamReader<u8>,
    ) -> wasmtime::Result<FutureReader<Result<(), ErrorCode>>> {
        WasiFilesystem::append_via_stream(their_access(&mut store), fd, data)
    }

    fn read_directory(mut store: Access<'_, S, Self>, fd: Resource<Descriptor>) -> Streamed<DirectoryEntry> {
        WasiFilesystem::read_directory(their_access(&mut store), fd)
    }

    async fn advise(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        at: Filesize,
        len: Filesize,
        advice: Advice,
    ) -> FilesystemResult<()> {
        WasiFilesystem::advise(&theirs(store), fd, at, len, advice).await
    }

    async fn sync_data(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        WasiFilesystem::sync_data(&theirs(store), fd).await
    }

    async fn get_flags(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorFlags> {
        WasiFilesystem::get_flags(&theirs(store), fd).await
    }

    async fn get_type(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorType> {
        WasiFilesystem::get_type(&theirs(store), fd).await
    }

    async fn set_size(store: &Ours<S>, fd: Resource<Descriptor>, size: Filesize) -> FilesystemResult<()> {
        WasiFilesystem::set_size(&theirs(store), fd, size).await
    }

    async fn set_times(
        store: &Ours<S>,
        fd: Resource<Descriptor>,
        atime: NewTimestamp,
        mtime: NewTimestamp,
    ) -> FilesystemResult<()> {
        WasiFilesystem::set_times(&theirs(store), fd, atime, mtime).await
    }

    async fn sync(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<()> {
        WasiFilesystem::sync(&theirs(store), fd).await
    }

    async fn stat(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<DescriptorStat> {
        stat(store, &fd).await
    }

    async fn is_same_object(
        store: &Ours<S>,
        a: Resource<Descriptor>,
        b: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        WasiFilesystem::is_same_object(&theirs(store), a, b).await
    }

    async fn metadata_hash(store: &Ours<S>, fd: Resource<Descriptor>) -> FilesystemResult<MetadataHashValue> {
        WasiFilesystem::metadata_hash(&theirs(store), fd).await
    }
}

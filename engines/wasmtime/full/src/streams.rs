// SPDX-License-Identifier: Apache-2.0

//! Streams of preview 2 that are descriptors: read and written where the guest calls,
//! in pieces as large as it asks for, without a thread or a buffer in between.

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::fcntl_getpipe_size;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use wasmshim_wasi::kept::Kept;
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most that one call moves: so much memory it may take.
const PIECE: usize = 64 << 10;

/// What a pipe or terminal takes without waiting, if it takes anything.
const LEAST: usize = 4 << 10;

/// A descriptor that is read or written, as its flags say.
pub struct Stream<F> {
    fd: F,
    flags: PollFlags,
    /// It has ended or failed, of which there is no way back.
    is_closed: bool,
}

impl<F: AsFd> Stream<F> {
    pub fn input(fd: F) -> Stream<F> {
        Stream { fd, flags: PollFlags::IN, is_closed: false }
    }

    pub fn output(fd: F) -> Stream<F> {
        Stream { fd, flags: PollFlags::OUT, is_closed: false }
    }

    /// Says whether a call would not wait; or waits until it is so.
    fn is_ready(&self, wait: bool) -> bool {
        if self.is_closed {
            return true;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.fd, self.flags)];
        loop {
            match poll(&mut fds, if wait { None } else { Some(&now) }) {
                Err(Errno::INTR) => {}
                // A descriptor that cannot be waited for says in the call why.
                other => return other != Ok(0),
            }
        }
    }

    fn read_now(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut piece = BytesMut::zeroed(size.min(PIECE));
        loop {
            match rustix::io::read(&self.fd, &mut piece[..]) {
                Ok(0) => return Err(self.closed()),
                Ok(n) => {
                    piece.truncate(n);
                    return Ok(piece.freeze());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Bytes::new()),
                Err(e) => return Err(self.failed(e)),
            }
        }
    }

    fn write_now(&mut self, mut bytes: &[u8]) -> StreamResult<()> {
        self.open()?;
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_ready(true);
                }
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    /// How much can be written now, and nothing waits for it.
    fn room(&self) -> usize {
        if !self.is_ready(false) {
            return 0;
        }
        match fcntl_getpipe_size(&self.fd) {
            // Of one that has something in it nobody knows how it lies there.
            Ok(size) if ioctl_fionread(&self.fd) == Ok(0) => size.min(PIECE),
            Ok(_) => LEAST,
            Err(_) if rustix::termios::isatty(&self.fd) => LEAST,
            Err(_) => PIECE,
        }
    }

    fn open(&self) -> StreamResult<()> {
        if self.is_closed { Err(StreamError::Closed) } else { Ok(()) }
    }

    fn closed(&mut self) -> StreamError {
        self.is_closed = true;
        StreamError::Closed
    }

    /// The guest asks the file system for the reason, which knows it by this type. The
    /// end of a pipe has a name of its own.
    fn failed(&mut self, e: Errno) -> StreamError {
        match (self.closed(), e) {
            (closed, Errno::PIPE) => closed,
            (_, e) => StreamError::LastOperationFailed(std::io::Error::from(e).into()),
        }
    }
}

#[wasmtime_wasi::async_trait]
impl<F: AsFd + Send + Sync + 'static> Pollable for Stream<F> {
    async fn ready(&mut self) {
        if self.is_ready(false) {
            return;
        }
        let interest = if self.flags == PollFlags::IN { Interest::READABLE } else { Interest::WRITABLE };
        // A descriptor of its own: two of a guest's pollables may be about one.
        let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(&self.fd, 3) else { return };
        // What epoll does not take is always ready.
        // SAFETY: nothing but this function knows the descriptor, and it drops both.
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        let Ok(fd) = registered else { return };
        while let Ok(mut guard) = fd.ready(interest).await {
            // Another reader of the same pipe may have been quicker.
            if self.is_ready(false) {
                return;
            }
            guard.clear_ready();
        }
    }
}

#[wasmtime_wasi::async_trait]
impl<F: AsFd + Send + Sync + 'static> InputStream for Stream<F> {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.open()?;
        if size == 0 || !self.is_ready(false) {
            return Ok(Bytes::new());
        }
        self.read_now(size)
    }

    /// The guest waits, and nothing else runs in its thread: the call may, too.
    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        loop {
            self.open()?;
            self.is_ready(true);
            if size == 0 {
                return Ok(Bytes::new());
            }
            let bytes = self.read_now(size)?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
    }
}

#[wasmtime_wasi::async_trait]
impl<F: AsFd + Send + Sync + 'static> OutputStream for Stream<F> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_now(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.open()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.open()?;
        Ok(self.room())
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_now(&bytes)
    }
}

/// One of the process's standard streams.
pub struct Standard(pub BorrowedFd<'static>);

impl IsTerminal for Standard {
    fn is_terminal(&self) -> bool {
        rustix::termios::isatty(self.0)
    }
}

impl StdinStream for Standard {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Stream::input(self.0))
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::stdin())
    }
}

impl StdoutStream for Standard {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Stream::output(self.0))
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        if self.0.as_raw_fd() == rustix::stdio::stderr().as_raw_fd() {
            return Box::new(tokio::io::stderr());
        }
        Box::new(tokio::io::stdout())
    }
}

/// A standard stream that nobody reads.
#[derive(Clone)]
pub struct Said(pub Arc<Kept>);

impl IsTerminal for Said {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Said {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        unreachable!("only preview 3 asks for it, and is not there")
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Said {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Said {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.add(&[IoSlice::new(&bytes)]);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PIECE)
    }
}

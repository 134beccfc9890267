// SPDX-License-Identifier: Apache-2.0

//! Streams of preview 2 that are descriptors: read and written where the guest calls,
//! in pieces as large as it asks for, without a thread or a buffer in between.

use bytes::{Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// The most that one call moves: so much memory it may take.
const PIECE: usize = 64 << 10;

/// A descriptor that is read or written, as its flags say.
pub struct Stream<F> {
    fd: F,
    flags: PollFlags,
}

impl<F: AsFd> Stream<F> {
    pub fn input(fd: F) -> Stream<F> {
        Stream { fd, flags: PollFlags::IN }
    }

    pub fn output(fd: F) -> Stream<F> {
        Stream { fd, flags: PollFlags::OUT }
    }

    /// Says whether a call would not wait; or waits until it is so.
    fn is_ready(&self, wait: bool) -> bool {
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

    fn read_now(&self, size: usize) -> StreamResult<Bytes> {
        let mut piece = BytesMut::zeroed(size.min(PIECE));
        loop {
            match rustix::io::read(&self.fd, &mut piece[..]) {
                Ok(0) => return Err(StreamError::Closed),
                Ok(n) => {
                    piece.truncate(n);
                    return Ok(piece.freeze());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Bytes::new()),
                Err(e) => return Err(failed(e)),
            }
        }
    }
}

/// The guest asks the file system for the reason, which knows it by this type. The
/// end of a pipe has a name of its own.
fn failed(e: Errno) -> StreamError {
    match e {
        Errno::PIPE => StreamError::Closed,
        e => StreamError::LastOperationFailed(std::io::Error::from(e).into()),
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
        if size == 0 || !self.is_ready(false) {
            return Ok(Bytes::new());
        }
        self.read_now(size)
    }

    /// The guest waits, and nothing else runs in its thread: the call may, too.
    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        loop {
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
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.fd, &bytes) {
                Ok(n) => bytes = bytes.split_off(n),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.is_ready(true);
                }
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.is_ready(false) { PIECE } else { 0 })
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write(bytes)
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

// SPDX-License-Identifier: Apache-2.0

//! One client's connection: HTTP/1.1, or HTTP/2 where the client begins so.

use super::request;
use super::server::Server;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io::{self, Error, ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How every client of HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a new client is spared where others wait for its place.
const SPARED: Duration = Duration::from_secs(1);

/// A connection's bytes; writing them ends where the client does not take them.
struct Stream {
    tcp: TcpStream,
    /// What was read of it to find out how it begins.
    begin: [u8; PREFACE.len()],
    read: usize,
    used: usize,
    patience: Duration,
    waits: Option<Pin<Box<Sleep>>>,
    load: Arc<Load>,
}

impl Stream {
    /// Finds out whether it is HTTP/2.
    async fn is_http2(&mut self) -> io::Result<bool> {
        while self.read < PREFACE.len() && PREFACE.starts_with(&self.begin[..self.read]) {
            match self.tcp.read(&mut self.begin[self.read..]).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => self.read += n,
            }
        }
        Ok(self.begin[..self.read] == *PREFACE)
    }

    fn patient<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.load.is_writing.store(poll.is_pending(), Ordering::Release);
        if poll.is_ready() {
            self.waits = None;
            return poll;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        match waits.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client reads nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.used == self.read {
            return Pin::new(&mut self.tcp).poll_read(cx, to);
        }
        let n = to.remaining().min(self.read - self.used);
        to.put_slice(&self.begin[self.used..self.used + n]);
        self.used += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.tcp).poll_write(cx, from);
        self.patient(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.tcp).poll_write_vectored(cx, from);
        self.patient(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// How many of a connection's requests are not answered yet.
struct Load {
    requests: AtomicUsize,
    /// When the last one ended.
    quiet: Mutex<Instant>,
    /// The client does not take yet what it was answered.
    is_writing: AtomicBool,
}

/// One request of them.
pub struct Busy(Arc<Load>);

impl Load {
    fn busy(self: &Arc<Load>) -> Busy {
        self.requests.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// For how long there has been none, nor a part of an answer.
    fn quiet_for(&self) -> Duration {
        if self.requests.load(Ordering::Acquire) > 0 || self.is_writing.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        self.quiet.lock().expect("no panic is survived").elapsed()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *self.0.quiet.lock().expect("no panic is survived") = Instant::now();
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection of either kind.
trait Connection: Future<Output = hyper::Result<()>> {
    fn end(self: Pin<&mut Self>);
}

impl<I, B, S> Connection for http1::Connection<I, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S, E> Connection for http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Drives a connection to its end, which comes when the server stops, when there was
/// no request for a while, or when others wait for its place.
async fn drive(connection: impl Connection, load: &Load, server: &Server) {
    let mut connection = pin!(connection);
    let mut stopping = server.stopping.subscribe();
    let patience = server.options.client_timeout;
    loop {
        let ended = *stopping.borrow_and_update();
        if ended {
            connection.as_mut().end();
        }
        let quiet = Some(patience.saturating_sub(load.quiet_for())).filter(|left| !left.is_zero());
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stopping.changed(), if !ended => {}
            () = tokio::time::sleep(quiet.unwrap_or(patience)) => if load.quiet_for() >= patience {
                connection.as_mut().end();
            },
            () = server.crowded.notified() => match load.quiet_for() {
                // A client that has begun to ask may do so for long.
                quiet if quiet >= 2 * SPARED => return,
                quiet if quiet >= SPARED => connection.as_mut().end(),
                _ => {}
            },
        }
    }
}

pub async fn serve(tcp: TcpStream, remote: IpAddr, server: Arc<Server>) {
    let o = &server.options;
    // Answers are written whole: there is nothing to wait for.
    let _ = tcp.set_nodelay(true);
    let patience = o.client_timeout;
    let begin = [0; PREFACE.len()];
    let load = Arc::new(Load {
        requests: AtomicUsize::new(0),
        quiet: Mutex::new(Instant::now()),
        is_writing: AtomicBool::new(false),
    });
    let mut stream = Stream { tcp, begin, read: 0, used: 0, patience, waits: None, load: load.clone() };
    let mut stopping = server.stopping.subscribe();
    let is_http2 = tokio::select! {
        found = tokio::time::timeout(patience, stream.is_http2()) => match found {
            Ok(Ok(is_http2)) => is_http2,
            _ => return,
        },
        _ = stopping.wait_for(|stops| *stops) => return,
        () = crowded(&server) => return,
    };
    let service = service_fn(|request| {
        let (server, busy) = (server.clone(), load.busy());
        async move { Ok::<_, Infallible>(request::answer(server, request, remote, busy).await) }
    });
    let io = TokioIo::new(stream);
    if is_http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(u32::try_from(o.max_requests.min(256)).unwrap_or(256))
            .max_header_list_size(u32::try_from(o.max_headers).unwrap_or(u32::MAX))
            .keep_alive_interval(patience)
            .keep_alive_timeout(patience)
            .serve_connection(io, service);
        drive(connection, &load, &server).await;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_header_size(o.max_headers)
            .max_buf_size(o.max_headers.max(64 << 10))
            .serve_connection(io, service);
        drive(connection, &load, &server).await;
    }
}

/// Ends when others wait for the place of a client that has sent nothing yet.
async fn crowded(server: &Server) {
    tokio::time::sleep(SPARED).await;
    server.crowded.notified().await;
}

// SPDX-License-Identifier: Apache-2.0

//! Listens, takes connections, and ends when it is told to.

use super::access::Access;
use super::connection;
use super::guest::{Factory, Setup, Version};
use super::instances::Instances;
use super::options::Options;
use super::pool::pooled;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use wasmtime::component::Component;
use wasmtime::error::Context as _;
use wasmtime::{Engine, Result, bail};

pub struct Server {
    pub options: Options,
    pub instances: Instances,
    pub access: Access,
    pub clock: Clock,
    pub requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Told when a connection waits for the place of another.
    pub crowded: Notify,
    /// Says whether it stops.
    pub stopping: watch::Sender<bool>,
}

/// The clock by which a guest that runs lets others run. It stands still where none
/// runs, so that a service that nobody calls sleeps.
pub struct Clock(Arc<Ticking>);

struct Ticking {
    running: AtomicUsize,
    sleeps: AtomicBool,
    thread: std::sync::OnceLock<std::thread::Thread>,
}

const TICK: Duration = Duration::from_millis(10);

impl Clock {
    fn new(engine: Engine) -> io::Result<Clock> {
        let ticking = Arc::new(Ticking {
            running: AtomicUsize::new(0),
            sleeps: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let t = ticking.clone();
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            loop {
                // In this order, and the other one in run: one of the two sees the other.
                t.sleeps.store(true, Ordering::SeqCst);
                while t.running.load(Ordering::SeqCst) == 0 {
                    std::thread::park();
                }
                t.sleeps.store(false, Ordering::SeqCst);
                std::thread::sleep(TICK);
                engine.increment_epoch();
            }
        })?;
        let _ = ticking.thread.set(thread.thread().clone());
        Ok(Clock(ticking))
    }

    pub fn run(&self, permit: OwnedSemaphorePermit) -> Running {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        if self.0.sleeps.load(Ordering::SeqCst)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
        Running { ticking: self.0.clone(), _permit: permit }
    }
}

/// A guest that runs.
pub struct Running {
    ticking: Arc<Ticking>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ticking.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Takes the port, which another process may have.
fn bind(choices: &[SocketAddr]) -> Result<TcpSocket> {
    let mut failed = None;
    for a in choices {
        let tried = (|| {
            let socket = if a.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
            socket.set_reuseaddr(true)?;
            socket.bind(*a)?;
            Ok::<_, io::Error>(socket)
        })();
        match tried {
            Ok(socket) => return Ok(socket),
            // There may be no version 6 here.
            Err(e) => failed = Some((a, e)),
        }
    }
    let Some((a, e)) = failed else { bail!("no address to listen on") };
    let hint = match e.kind() {
        io::ErrorKind::AddrInUse => "; the option http-address or the variable PORT names another port",
        io::ErrorKind::PermissionDenied => "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; accepted: an address that the container has",
        _ => "",
    };
    bail!("cannot listen on {a}: {}{hint}", plain(&e));
}

/// The words of the C library, without Rust's number behind them.
fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_string()
}

/// How many connections there may be: as many as there are descriptors for, of which
/// guests need some.
fn most_connections(o: &Options) -> usize {
    let limit =
        getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let others = o.max_requests.saturating_add(32).min(limit / 2);
    o.max_connections.min(limit - others).max(1)
}

/// Serves until a signal says that it is enough. Returns the exit code.
/// signals is a pipe in which there is a byte for each signal, its number.
pub fn serve(
    component: &Component,
    version: Version,
    setup: Setup,
    mut options: Options,
    signals: OwnedFd,
) -> Result<i32> {
    options.max_connections = most_connections(&options);
    let choices = options.address(&setup.env)?.choices();
    let backlog = options.backlog(&setup.env)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let is_anew = version == Version::P2 && options.reuse.unwrap_or(1) == 1;
    let component =
        is_anew.then(|| pooled(component, &options)).flatten().unwrap_or_else(|| component.clone());
    let code = runtime.block_on(async move {
        let socket = bind(&choices)?;
        let factory = Factory::new(&component, version, setup, &options)?;
        let server = Arc::new(Server {
            instances: Instances::new(version, factory, &options),
            access: Access::new(options.log).context("cannot start a thread for the log")?,
            clock: Clock::new(component.engine().clone()).context("cannot start a thread for the clock")?,
            requests: Arc::new(Semaphore::new(options.max_requests)),
            connections: Arc::new(Semaphore::new(options.max_connections)),
            crowded: Notify::new(),
            stopping: watch::Sender::new(false),
            options,
        });
        // Whoever connects finds a guest that answers.
        server.instances.start().await?;
        let listener = socket.listen(backlog).context("cannot listen")?;
        let accepting = tokio::spawn(accept(listener, server.clone()));
        let code = stop(&server, accepting, signals).await?;
        server.access.close();
        Ok(code)
    });
    // Whatever is left ends with the process.
    runtime.shutdown_background();
    code
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        let places = server.connections.clone();
        let permit = match places.clone().try_acquire_owned() {
            Ok(p) => p,
            Err(_) => loop {
                server.crowded.notify_waiters();
                let waited = tokio::time::timeout(Duration::from_millis(100), places.clone().acquire_owned());
                match waited.await {
                    Ok(Ok(p)) => break p,
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            },
        };
        match listener.accept().await {
            Ok((tcp, from)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    connection::serve(tcp, canonical(from.ip()), server).await;
                });
            }
            // No descriptor is left, or no memory: it is not the listener's fault.
            Err(_) => {
                server.crowded.notify_waiters();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// An address of version 4 as it is written there.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Waits for a signal; then no client is taken any more, and those that are there have
/// some time. A second signal ends that.
async fn stop(server: &Arc<Server>, accepting: tokio::task::JoinHandle<()>, signals: OwnedFd) -> Result<i32> {
    let mut signals = pipe::Receiver::from_owned_fd(signals).context("cannot wait for signals")?;
    let mut signal = [0];
    signals.read_exact(&mut signal).await?;
    accepting.abort();
    let _ = accepting.await; // and with it the listener is closed
    server.stopping.send_replace(true);
    let all = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let ended = async {
        let _clients = server.connections.acquire_many(all(server.options.max_connections)).await;
        let _guests = server.requests.acquire_many(all(server.options.max_requests)).await;
    };
    tokio::select! {
        () = ended => Ok(0),
        () = tokio::time::sleep(server.options.drain) => {
            let left = server.options.max_connections - server.connections.available_permits();
            eprintln!("wasmtime: {left} connections were open after http-drain, {:?}", server.options.drain);
            Ok(0)
        }
        read = signals.read_exact(&mut signal) => {
            read?;
            Ok(128 + i32::from(signal[0]))
        }
    }
}

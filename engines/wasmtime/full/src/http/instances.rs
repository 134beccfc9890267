// SPDX-License-Identifier: Apache-2.0

//! Who answers: instances of the guest, each for one request or for some. How many,
//! is drawn for each, so that no guest comes to depend on it.

use super::guest::{Factory, Host, Instance, Version};
use super::options::Options;
use super::request::{Exchange, Failure};
use super::server::{Running, Server};
use http::{Request, Response};
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Result, Store, StoreContextMut};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, InstantiationError, Proxy, ProxyHandler, ShouldAccept, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

/// Half of so many at least, so many at most.
fn drawn(most: usize) -> usize {
    let random = RandomState::new().build_hasher().finish();
    most - usize::try_from(random % (most as u64 / 2 + 1)).unwrap_or(0)
}

pub enum Instances {
    P2(Pool),
    P3(ProxyHandler<Workers>),
}

impl Instances {
    pub fn new(version: Version, factory: Arc<Factory>, o: &Options) -> Instances {
        match version {
            Version::P2 => Instances::P2(Pool {
                factory,
                reuse: o.reuse.unwrap_or(1),
                idle: o.idle,
                waiting: Mutex::default(),
                is_watched: AtomicBool::new(false),
            }),
            Version::P3 => Instances::P3(ProxyHandler::new(Workers {
                factory,
                reuse: o.reuse.unwrap_or(128),
                concurrency: o.concurrency.unwrap_or(16),
                idle: o.idle,
                timeout: o.timeout,
                first: Mutex::default(),
            })),
        }
    }

    /// Makes the first one, before there is a client.
    pub async fn start(&self) -> Result<()> {
        match self {
            Instances::P2(pool) => {
                let instance = pool.factory.instance().await?;
                pool.waiting.lock().expect("no panic is survived").push_back(Waiting {
                    instance,
                    left: drawn(pool.reuse),
                    since: Instant::now(),
                });
            }
            Instances::P3(handler) => {
                let first = handler.state().factory.instance().await?;
                *handler.state().first.lock().expect("no panic is survived") = Some(first);
            }
        }
        Ok(())
    }

    pub async fn answer(
        &self,
        server: &Arc<Server>,
        request: Request<WasiBody>,
        exchange: Arc<Exchange>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<WasiBody>, Failure> {
        let running = server.clock.run(permit);
        match self {
            Instances::P2(_) => answer_p2(server, request, exchange, running).await,
            Instances::P3(handler) => answer_p3(handler, request, exchange, running).await,
        }
    }
}

/// Writes what happened to the guest, for who runs it.
fn complain(what: &str, error: &wasmtime::Error) {
    let trace = error.downcast_ref::<wasmtime::WasmBacktrace>();
    let cause = error.root_cause();
    let lines = trace.map(|t| format!("\n{t}")).unwrap_or_default();
    eprintln!("wasmtime: {what}: {cause}{lines}");
}

// Preview 2: one request at a time.

struct Waiting {
    instance: Instance,
    /// How many requests it may answer yet.
    left: usize,
    since: Instant,
}

pub struct Pool {
    factory: Arc<Factory>,
    reuse: usize,
    idle: Duration,
    /// The one that waits for the shortest time is the last.
    waiting: Mutex<VecDeque<Waiting>>,
    /// Somebody looks after those that nobody takes.
    is_watched: AtomicBool,
}

impl Pool {
    async fn take(&self) -> Result<Waiting> {
        let found = self.waiting.lock().expect("no panic is survived").pop_back();
        match found {
            Some(w) => Ok(w),
            None => Ok(Waiting {
                instance: self.factory.instance().await?,
                left: drawn(self.reuse),
                since: Instant::now(),
            }),
        }
    }

    /// Gives one back, and has those end that nobody took for a while.
    fn give(&self, server: &Arc<Server>, mut w: Waiting) {
        w.since = Instant::now();
        self.waiting.lock().expect("no panic is survived").push_back(w);
        if self.is_watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let (server, idle) = (server.clone(), self.idle);
        tokio::spawn(async move {
            let Instances::P2(pool) = &server.instances else { return };
            loop {
                tokio::time::sleep(idle.max(Duration::from_millis(10))).await;
                let mut waiting = pool.waiting.lock().expect("no panic is survived");
                let old = waiting.iter().take_while(|w| w.since.elapsed() >= idle).count();
                let old: Vec<_> = waiting.drain(..old).collect();
                if waiting.is_empty() {
                    pool.is_watched.store(false, Ordering::Release);
                    return;
                }
                drop(waiting);
                drop(old);
            }
        });
    }
}

type Head = Result<Response<WasiBody>, ErrorCode>;

async fn answer_p2(
    server: &Arc<Server>,
    request: Request<WasiBody>,
    exchange: Arc<Exchange>,
    running: Running,
) -> Result<Response<WasiBody>, Failure> {
    let (head, answered) = oneshot::channel();
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let task = {
        let (server, exchange) = (server.clone(), exchange.clone());
        // In a task of its own: it goes on after the answer's head.
        tokio::spawn(async move {
            let _running = running;
            if let Err(e) = run_p2(&server, request, &exchange, head).await {
                complain(&format!("{method} {}", uri.path()), &e);
            }
        })
    };
    // Where the client goes away before that, so does this function.
    let task = Abort(Some(task));
    match answered.await {
        Ok(Ok(response)) => {
            task.leave();
            Ok(response)
        }
        Ok(Err(code)) => {
            task.leave();
            eprintln!("wasmtime: the guest answers with the error {code:?}");
            Err(Failure::Refused)
        }
        Err(_) => {
            task.leave();
            Err(exchange.failure().unwrap_or(Failure::Silent))
        }
    }
}

struct Abort(Option<tokio::task::JoinHandle<()>>);

impl Abort {
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

async fn run_p2(
    server: &Arc<Server>,
    request: Request<WasiBody>,
    exchange: &Arc<Exchange>,
    head: oneshot::Sender<Head>,
) -> Result<()> {
    let Instances::P2(pool) = &server.instances else { return Ok(()) };
    let mut w = pool.take().await.inspect_err(|_| exchange.fail(Failure::NotStarted))?;
    let Instance { store, proxy } = &mut w.instance;
    let Proxy::P2(guest) = proxy else { return Ok(()) };
    let call = async {
        let mut http = store.data_mut().http();
        let request = http.new_incoming_request(Scheme::Http, request)?;
        let out = http.new_response_outparam(head)?;
        guest.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
    };
    let limit = server.options.timeout;
    let result = tokio::select! {
        biased; // most calls end at once, and need no timer
        result = call => result,
        () = exchange.late(limit) => {
            exchange.fail(Failure::Late);
            Err(wasmtime::format_err!("the guest let a client wait for longer than http-timeout, {limit:?}"))
        }
    };
    // An exit ends the instance, whatever it says: as the end of the answer it would
    // be no good one.
    if let Err(e) = result {
        exchange.fail(Failure::Trapped);
        let code = e.downcast_ref::<I32Exit>().map(|e| e.0);
        return Err(code.map_or(e, |code| wasmtime::format_err!("the guest exited with {code}")));
    }
    exchange.over();
    w.left -= 1;
    if w.left > 0 {
        pool.give(server, w);
    }
    Ok(())
}

// Preview 3: some at once.

/// What an instance's requests have in common.
#[derive(Default)]
struct Worker {
    requests: Mutex<Vec<std::sync::Weak<Exchange>>>,
    left: usize,
    concurrency: usize,
    timeout: Duration,
}

pub struct Workers {
    factory: Arc<Factory>,
    reuse: usize,
    concurrency: usize,
    idle: Duration,
    timeout: Duration,
    first: Mutex<Option<Instance>>,
}

impl HandlerState for Workers {
    type StoreData = Host;
    type WorkerExpiration = Expiry;
    type WorkerState = Shared;

    async fn instantiate(&self) -> Result<wasmtime_wasi_http::handler::Instance<Host, Expiry, Shared>> {
        let first = self.first.lock().expect("no panic is survived").take();
        let Instance { store, proxy } = match first {
            Some(i) => i,
            None => self.factory.instance().await?,
        };
        let worker = Arc::new(Worker {
            requests: Mutex::default(),
            left: drawn(self.reuse),
            concurrency: self.concurrency,
            timeout: self.timeout,
        });
        Ok(wasmtime_wasi_http::handler::Instance {
            store,
            proxy,
            view: Host::http,
            expiration: Expiry {
                worker: worker.clone(),
                idle: self.idle,
                timer: Box::pin(tokio::time::sleep(self.idle)),
            },
            state: Shared(worker),
        })
    }
}

pub struct Shared(Arc<Worker>);

impl WorkerState for Shared {
    type StoreData = Host;
    type RequestData = Arc<Exchange>;

    fn should_accept_request(&self, now: usize, total: usize) -> ShouldAccept {
        if total >= self.0.left {
            ShouldAccept::Never
        } else if now >= self.0.concurrency {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, Host>,
        exchange: Arc<Exchange>,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        let mut requests = self.0.requests.lock().expect("no panic is survived");
        requests.retain(|r| r.strong_count() > 0);
        requests.push(Arc::downgrade(&exchange));
        let timeout = self.0.timeout;
        Box::pin(async move {
            exchange.late(timeout).await;
            exchange.fail(Failure::Late);
        })
    }

    fn drop(&self, store: Store<Host>, result: Result<()>) {
        if let Err(e) = result {
            // Those whose answers are under way: they must not end as if they were whole.
            for r in self.0.requests.lock().expect("no panic is survived").iter().filter_map(|r| r.upgrade())
            {
                let is_late = r.waited_for_since().elapsed() >= self.0.timeout;
                r.fail(if is_late { Failure::Late } else { Failure::Trapped });
            }
            complain("an instance ended", &e);
        }
        drop(store);
    }
}

pub struct Expiry {
    worker: Arc<Worker>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiry {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        let until = match status {
            WorkerStatus::Idle => start + self.idle,
            _ => self.worker.waited_for_since().max(Some(start)).unwrap_or(start) + self.worker.timeout,
        };
        if self.timer.deadline() != until.into() {
            self.timer.as_mut().reset(until.into());
        }
        self.timer.as_mut().poll(cx)
    }
}

impl Worker {
    /// Since when the client that waits for the shortest time has waited.
    fn waited_for_since(&self) -> Option<Instant> {
        let requests = self.requests.lock().expect("no panic is survived");
        requests.iter().filter_map(std::sync::Weak::upgrade).map(|r| r.waited_for_since()).max()
    }
}

async fn answer_p3(
    handler: &ProxyHandler<Workers>,
    request: Request<WasiBody>,
    exchange: Arc<Exchange>,
    running: Running,
) -> Result<Response<WasiBody>, Failure> {
    match handler.handle(exchange.clone(), request).await {
        Ok(response) => Ok(response.map(|body| {
            use http_body_util::BodyExt;
            // Until the answer has gone out.
            body.map_frame(move |f| {
                let _ = &running;
                f
            })
            .boxed_unsync()
        })),
        Err(e) if e.is::<ExpirationError>() => Err(Failure::Late),
        Err(e) if e.is::<InstantiationError<Arc<Exchange>>>() => {
            eprintln!("wasmtime: cannot start the guest: {e:#}");
            Err(Failure::NotStarted)
        }
        Err(e) => {
            let why = exchange.failure();
            if why.is_none() {
                eprintln!("wasmtime: {e:#}");
            }
            Err(why.unwrap_or(Failure::Trapped))
        }
    }
}

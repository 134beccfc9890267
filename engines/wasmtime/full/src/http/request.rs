// SPDX-License-Identifier: Apache-2.0

//! One request: how long the guest may take, and how it ended.

use super::access::Entry;
use super::connection::Busy;
use super::server::Server;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use wasmtime_wasi_http::{Error, WasiBody};

/// Why the guest gave no answer, or no whole one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    Trapped,
    NotStarted,
    Late,
    Silent,
    Refused,
    Crowded,
    TooLarge,
    NoHost,
}

impl Failure {
    fn status(self) -> StatusCode {
        match self {
            Failure::Trapped | Failure::NotStarted | Failure::Silent | Failure::Refused => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Failure::Late => StatusCode::GATEWAY_TIMEOUT,
            Failure::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::NoHost => StatusCode::BAD_REQUEST,
        }
    }

    /// For the access log; the client is told the status alone.
    fn reason(self) -> &'static str {
        match self {
            Failure::Trapped => "the guest trapped",
            Failure::NotStarted => "the guest did not start",
            Failure::Late => "the guest took too long",
            Failure::Silent => "the guest returned without an answer",
            Failure::Refused => "the guest answered with an error",
            Failure::Crowded => "too many requests at once",
            Failure::TooLarge => "the request's body is too large",
            Failure::NoHost => "the request names no host",
        }
    }
}

/// What the guest's side and the client's know of each other.
#[derive(Default)]
struct State {
    /// Since when somebody waits for the guest.
    waiting: Option<Instant>,
    failure: Option<Failure>,
    /// The guest has returned: nothing follows but what it has written.
    is_over: bool,
    waker: Option<Waker>,
}

pub struct Exchange(Mutex<State>);

impl Exchange {
    pub fn new() -> Arc<Exchange> {
        Arc::new(Exchange(Mutex::new(State { waiting: Some(Instant::now()), ..State::default() })))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic is survived")
    }

    /// The first failure counts. Comes before the guest's streams are closed, which
    /// would look like the end of its answer.
    pub fn fail(&self, why: Failure) {
        self.state().failure.get_or_insert(why);
    }

    pub fn failure(&self) -> Option<Failure> {
        self.state().failure
    }

    /// Says that the guest has returned.
    pub fn over(&self) {
        let mut state = self.state();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(w) = waker {
            w.wake();
        }
    }

    fn waits(&self, since: Option<Instant>) {
        self.state().waiting = since;
    }

    /// Since when; where nobody does, now.
    pub fn waited_for_since(&self) -> Instant {
        self.state().waiting.unwrap_or_else(Instant::now)
    }

    /// Ends when somebody has waited for the guest for so long.
    pub async fn late(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let until = self.state().waiting.unwrap_or(now) + limit;
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// The guest's answer on its way to the client.
pub struct Answer {
    body: WasiBody,
    exchange: Arc<Exchange>,
    server: Arc<Server>,
    entry: Entry,
    begun: Instant,
    /// What its head says, after which hyper asks for nothing more.
    length: Option<u64>,
    is_whole: bool,
    _busy: Busy,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame),
            Poll::Pending => {
                let mut state = self.exchange.state();
                let is_over = state.is_over;
                state.waiting.get_or_insert_with(Instant::now);
                state.waker = Some(cx.waker().clone());
                drop(state);
                if !is_over {
                    return Poll::Pending;
                }
                // It may have written something before it returned.
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Pending => Poll::Ready(None),
                    ready => ready,
                }
            }
        };
        self.exchange.waits(None);
        let Poll::Ready(frame) = polled else { return Poll::Pending };
        match &frame {
            Some(Ok(f)) => {
                self.entry.bytes += f.data_ref().map_or(0, |d| d.len() as u64);
                self.is_whole = f.is_trailers() || Some(self.entry.bytes) == self.length;
            }
            // An end that comes from a failure must not look like the answer's.
            None if self.exchange.failure().is_some() => {
                return Poll::Ready(Some(Err(Error::HttpResponseIncomplete)));
            }
            None => self.is_whole = true,
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.exchange.waits(Some(Instant::now()));
        self.entry.took = self.begun.elapsed();
        self.entry.error = match self.exchange.failure() {
            Some(why) => Some(why.reason()),
            None if self.is_whole || self.body.is_end_stream() => None,
            // These answers have no body, whatever the guest wrote.
            None if self.entry.method == http::Method::HEAD || matches!(self.entry.status, 204 | 304) => None,
            None => Some("the client went away"),
        };
        self.server.access.log(&self.entry);
    }
}

fn has_host(request: &Request<Incoming>) -> bool {
    let host = || request.headers().get(header::HOST).is_some_and(|h| h.to_str().is_ok());
    request.uri().authority().is_some() || host()
}

fn failed(why: Failure, mut entry: Entry, begun: Instant, server: &Server) -> Response<Either> {
    let status = why.status();
    entry.status = status.as_u16();
    entry.error = Some(why.reason());
    entry.took = begun.elapsed();
    server.access.log(&entry);
    let text = format!("{} {}\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(Either::Text(Full::from(text)));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// The guest's answer, or one of ours.
pub enum Either {
    Guest(Box<Answer>),
    Text(Full<Bytes>),
}

impl Body for Either {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Either::Guest(b) => Pin::new(&mut **b).poll_frame(cx),
            Either::Text(b) => Pin::new(b).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Either::Guest(b) => b.is_end_stream(),
            Either::Text(b) => b.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Either::Guest(b) => b.size_hint(),
            Either::Text(b) => b.size_hint(),
        }
    }
}

/// A request's body, which ends with an error where it is larger than it may be.
fn limited(body: Incoming, most: u64) -> WasiBody {
    let body = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX));
    body.map_err(move |e| match e.downcast::<hyper::Error>() {
        Ok(e) => Error::Hyper(*e),
        Err(e) if e.is::<LengthLimitError>() => Error::HttpRequestBodySize(Some(most)),
        Err(e) => Error::InternalError(Some(e.to_string())),
    })
    .boxed_unsync()
}

/// Answers a request.
pub async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
    remote: IpAddr,
    busy: Busy,
) -> Response<Either> {
    let begun = Instant::now();
    let mut entry = Entry {
        remote,
        method: request.method().clone(),
        uri: request.uri().clone(),
        version: request.version(),
        status: 0,
        bytes: 0,
        took: Duration::ZERO,
        error: None,
    };
    let most = server.options.max_body;
    if !has_host(&request) {
        return failed(Failure::NoHost, entry, begun, &server);
    }
    if request.body().size_hint().lower() > most {
        return failed(Failure::TooLarge, entry, begun, &server);
    }
    let limit = server.options.timeout;
    let permit = server.requests.clone().acquire_owned();
    let Ok(Ok(permit)) = tokio::time::timeout(limit, permit).await else {
        return failed(Failure::Crowded, entry, begun, &server);
    };
    let exchange = Exchange::new();
    let request = request.map(|body| limited(body, most));
    match server.instances.answer(&server, request, exchange.clone(), permit).await {
        Err(why) => failed(why, entry, begun, &server),
        Ok(response) => {
            exchange.waits(Some(Instant::now()));
            entry.status = response.status().as_u16();
            let length = response.headers().get(header::CONTENT_LENGTH);
            let length = length.and_then(|n| n.to_str().ok()?.parse().ok());
            response.map(|body| {
                let is_whole = length == Some(0);
                let answer = Answer { body, exchange, server, entry, begun, length, is_whole, _busy: busy };
                Either::Guest(Box::new(answer))
            })
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Outgoing HTTP, as the operator's policy permits it: the same names, addresses and
//! ports as for sockets. One pool of connections for the process, which is one
//! container's.

use bytes::Bytes;
use http::uri::Scheme;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::error::Error as _;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wasmshim_wasi::names::{FILES, Failure, look_up};
use wasmshim_wasi::network::{Mode, Policy, Use};
use wasmtime::component::{Linker, Resource};
use wasmtime_c_api::WasmtimeStoreData;
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sync::io::streams::Error as IoError;
use wasmtime_wasi_http::p2::bindings as p2;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::bindings as p3;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttp, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// What is taken where the guest says nothing: to connect, and to wait for bytes.
const CONNECT: Duration = Duration::from_secs(30);
const BYTES: Duration = Duration::from_secs(600);
/// How long a connection is kept for another request, and how many of one server.
const IDLE: Duration = Duration::from_secs(30);
const MOST_IDLE: usize = 32;
const MOST_HEADERS: usize = 64 << 10;

/// Where images have the certificates that they trust: Debian and Alpine, Fedora, SUSE,
/// and those that have OpenSSL alone.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection of it was permitted when it was made; the policy does not change.
static POOL: OnceLock<Pool<Connector, WasiBody>> = OnceLock::new();

/// Permits what the policy does; before that, nothing is. bundle is the guest's
/// variable SSL_CERT_FILE.
pub fn permit(policy: &Arc<Policy>, bundle: Option<String>) {
    if policy.mode() == Mode::None {
        return;
    }
    let connector = Connector(Arc::new(Tls { policy: policy.clone(), bundle, config: OnceLock::new() }));
    let pool = Pool::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MOST_IDLE)
        .http1_max_buf_size(MOST_HEADERS)
        .http2_max_header_list_size(MOST_HEADERS as u32)
        .build(connector);
    let _ = POOL.set(pool);
}

/// How long a request waits for its connection, and what it knows of it.
struct Patience {
    connect: Duration,
    connecting: AtomicBool,
    connected: Notify,
}

impl Patience {
    fn new(connect: Duration) -> Patience {
        Patience { connect, connecting: AtomicBool::new(false), connected: Notify::new() }
    }

    /// Returns when an answer is late: so long after there was a connection, or none was
    /// needed, as there were others.
    async fn late(&self, first: Duration) {
        loop {
            while self.connecting.load(Ordering::Acquire) {
                self.connected.notified().await;
            }
            sleep(first).await;
            if !self.connecting.load(Ordering::Acquire) {
                return;
            }
        }
    }
}

/// Made when a connection is begun, dropped when it is there or given up.
struct Connecting(Arc<Patience>);

impl Connecting {
    fn new(patience: Arc<Patience>) -> Connecting {
        patience.connecting.store(true, Ordering::Release);
        Connecting(patience)
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.store(false, Ordering::Release);
        self.0.connected.notify_one();
    }
}

tokio::task_local! {
    /// That of the request that needs a connection.
    static PATIENCE: Arc<Patience>;
}

/// Defines wasi:http for a command: what it sends, as it serves nothing.
pub fn define(linker: &mut Linker<WasmtimeStoreData>, asynchronous: bool) -> wasmtime::Result<()> {
    let options = wasmtime_wasi_http::p2::bindings::LinkOptions::default();
    if asynchronous {
        p2::http::outgoing_handler::add_to_linker::<_, WasiHttp>(linker, view)?;
        p2::http::types::add_to_linker::<_, WasiHttp>(linker, &(&options).into(), view)?;
        p3::http::client::add_to_linker::<_, WasiHttp>(linker, view)?;
        p3::http::types::add_to_linker::<_, WasiHttp>(linker, view)?;
    } else {
        p2::sync::http::outgoing_handler::add_to_linker::<_, WasiHttp>(linker, view)?;
        p2::sync::http::types::add_to_linker::<_, WasiHttp>(linker, &(&options).into(), view)?;
    }
    define_errors(linker)
}

/// Defines what a body's error is to preview 2, after the rest of wasi:http: wasmtime's own
/// function looks for another type than the one that is kept.
pub fn define_errors<T: WasiView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    linker.instance("wasi:http/types@0.2.12")?.func_wrap(
        "http-error-code",
        |mut store, (error,): (Resource<IoError>,)| {
            let code = match store.data_mut().ctx().table.get(&error)?.downcast_ref() {
                Some(Error::ConnectionReadTimeout) => Some(ErrorCode::ConnectionReadTimeout),
                Some(Error::HttpResponseIncomplete) => Some(ErrorCode::HttpResponseIncomplete),
                Some(Error::HttpRequestBodySize(most)) => Some(ErrorCode::HttpRequestBodySize(*most)),
                Some(_) => Some(ErrorCode::HttpProtocolError),
                None => None,
            };
            Ok((code,))
        },
    )
}

fn view(data: &mut WasmtimeStoreData) -> WasiHttpCtxView<'_> {
    // Of no size: nothing leaks.
    WasiHttpCtxView { hooks: Box::leak(Box::new(Client)), ..data.http() }
}

/// What the host does for a guest that sends requests.
pub struct Client;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for Client {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _failed: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async move {
            let response = send(request, options.unwrap_or_default()).await?;
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}

async fn send(
    request: http::Request<WasiBody>,
    options: RequestOptions,
) -> Result<http::Response<WasiBody>, Error> {
    let Some(pool) = POOL.get() else { return Err(Error::HttpRequestDenied) };
    if request.uri().host().is_none() {
        return Err(Error::HttpRequestUriInvalid);
    }
    let connect = options.connect_timeout.unwrap_or(CONNECT);
    let first = options.first_byte_timeout.unwrap_or(BYTES);
    let patience = Arc::new(Patience::new(connect));
    let response = select! {
        sent = PATIENCE.scope(patience.clone(), pool.request(request)) => sent.map_err(failed)?,
        () = patience.late(first) => return Err(Error::ConnectionReadTimeout),
    };
    let limit = options.between_bytes_timeout.unwrap_or(BYTES);
    Ok(response.map(|body| Answer { body, limit, waits: None }.boxed_unsync()))
}

fn failed(e: PoolError) -> Error {
    let mut cause = e.source();
    while let Some(c) = cause {
        if let Some(NotConnected(why)) = c.downcast_ref::<NotConnected>() {
            return why.error();
        }
        if let Some(e) = c.downcast_ref::<hyper::Error>() {
            return if e.is_timeout() {
                Error::HttpResponseTimeout
            } else if e.is_incomplete_message() {
                Error::HttpResponseIncomplete
            } else if e.is_parse_too_large() {
                Error::HttpResponseHeaderSectionSize(None)
            } else {
                Error::HttpProtocolError
            };
        }
        cause = c.source();
    }
    Error::InternalError(Some(e.to_string()))
}

/// Why there is no connection.
#[derive(Debug)]
enum Why {
    Denied,
    Prohibited,
    Name(Failure),
    Refused,
    Unreachable,
    Late,
    Tls,
    Certificate,
    Bundle,
    Other,
}

#[derive(Debug)]
struct NotConnected(Why);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for NotConnected {}

impl Why {
    fn error(&self) -> Error {
        match self {
            Why::Denied | Why::Name(Failure::Denied) => Error::HttpRequestDenied,
            Why::Prohibited => Error::DestinationIpProhibited,
            Why::Name(Failure::Invalid) => Error::HttpRequestUriInvalid,
            Why::Name(Failure::Temporary) => Error::DnsTimeout,
            Why::Name(_) => Error::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None },
            Why::Refused => Error::ConnectionRefused,
            Why::Unreachable => Error::DestinationIpUnroutable,
            Why::Late => Error::ConnectionTimeout,
            Why::Tls => Error::TlsProtocolError,
            Why::Certificate => Error::TlsCertificateError,
            Why::Bundle => Error::ConfigurationError,
            Why::Other => Error::ConnectionTerminated,
        }
    }
}

impl From<io::Error> for Why {
    fn from(e: io::Error) -> Why {
        match e.kind() {
            io::ErrorKind::ConnectionRefused => Why::Refused,
            io::ErrorKind::TimedOut => Why::Late,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Why::Unreachable,
            _ => Why::Other,
        }
    }
}

/// An address in a URI.
fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

struct Tls {
    policy: Arc<Policy>,
    bundle: Option<String>,
    config: OnceLock<Result<TlsConnector, String>>,
}

impl Tls {
    async fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, Why> {
        let addresses = match address(host) {
            Some(ip) => vec![ip],
            None => look_up(&self.policy, FILES, host).await.map_err(Why::Name)?,
        };
        let mut why = Why::Prohibited;
        for ip in addresses {
            let to = SocketAddr::new(ip, port);
            if !self.policy.permits(to, Use::TcpConnect) {
                continue;
            }
            match TcpStream::connect(to).await {
                Ok(stream) => {
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(e) => why = e.into(),
            }
        }
        Err(why)
    }

    async fn connect(&self, uri: http::Uri) -> Result<Box<dyn Stream>, Why> {
        let host = uri.host().ok_or(Why::Denied)?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        let tcp = self.tcp(host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 })).await?;
        if !is_tls {
            return Ok(Box::new(TokioIo::new(tcp)));
        }
        let connector = self.config.get_or_init(|| self.configure()).as_ref().map_err(|e| {
            eprintln!("wasmtime: no request by TLS: {e}");
            Why::Bundle
        })?;
        let name = match address(host) {
            Some(ip) => ServerName::from(ip),
            None => ServerName::try_from(host.to_string()).map_err(|_| Why::Tls)?,
        };
        match connector.connect(name, tcp).await {
            Ok(tls) => Ok(Box::new(TokioIo::new(tls))),
            Err(e) => Err(match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(_)) => Why::Certificate,
                _ => Why::Tls,
            }),
        }
    }

    /// The container's own certificates; where there are none, the library's.
    fn configure(&self) -> Result<TlsConnector, String> {
        let mut roots = rustls::RootCertStore::empty();
        let found = BUNDLES.iter().copied().find(|b| std::fs::exists(b).unwrap_or(false));
        match self.bundle.as_deref().or(found) {
            Some(file) => {
                let all = CertificateDer::pem_file_iter(file).map_err(|e| format!("{file}: {e}"))?;
                // Bundles have some that no longer are what they should be.
                let (good, _) = roots.add_parsable_certificates(all.filter_map(Result::ok));
                if good == 0 {
                    return Err(format!("{file} has no certificate of an authority"));
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

#[derive(Clone)]
struct Connector(Arc<Tls>);

impl tower_service::Service<http::Uri> for Connector {
    type Response = Box<dyn Stream>;
    type Error = NotConnected;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NotConnected>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let tls = self.0.clone();
        let patience = PATIENCE.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Patience::new(CONNECT)));
        let connecting = Connecting::new(patience);
        Box::pin(async move {
            match timeout(connecting.0.connect, tls.connect(uri)).await {
                Ok(connected) => connected.map_err(NotConnected),
                Err(_) => Err(NotConnected(Why::Late)),
            }
        })
    }
}

/// A connection without or with TLS.
trait Stream: hyper::rt::Read + hyper::rt::Write + Send + Unpin {
    fn is_http2(&self) -> bool {
        false
    }
}

impl Stream for TokioIo<TcpStream> {}

impl Stream for TokioIo<TlsStream<TcpStream>> {
    fn is_http2(&self) -> bool {
        self.inner().get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl Connection for Box<dyn Stream> {
    fn connected(&self) -> Connected {
        if self.is_http2() { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

/// An answer's body, of which each piece comes in time.
struct Answer {
    body: hyper::body::Incoming,
    limit: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let limit = self.limit;
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waits = None;
                Poll::Ready(frame.map(|f| f.map_err(|_| Error::HttpResponseIncomplete)))
            }
            Poll::Pending => {
                let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(limit)));
                waits.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

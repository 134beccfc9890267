// SPDX-License-Identifier: Apache-2.0

//! What may be set for a service, by option or, where it is listened, by variable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use wasmtime::{Result, bail, format_err};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Log {
    Off,
    Text,
    Json,
}

/// Where an address comes from says what is done where it cannot be had.
#[derive(Clone, Copy)]
pub enum Address {
    /// Every address of the container, of both families if there are both.
    Any(u16),
    One(SocketAddr),
}

pub struct Options {
    address: Option<Address>,
    backlog: Option<u32>,
    /// The most requests that one instance answers; None is the default of its version.
    pub reuse: Option<usize>,
    /// How many of them at once.
    pub concurrency: Option<usize>,
    /// How long an instance waits for another request.
    pub idle: Duration,
    pub max_connections: usize,
    pub max_requests: usize,
    pub max_body: u64,
    pub max_headers: usize,
    /// The most memory of an instance, each of its memories.
    pub max_memory: Option<usize>,
    /// How many instructions an instance may run.
    pub fuel: Option<u64>,
    /// How long a guest may let a client wait: for the head of its answer, for the
    /// next piece of it, and after its end.
    pub timeout: Duration,
    /// How long a client may let the server wait: for the head of a request, the
    /// next one's, too, and until it takes what it is sent.
    pub client_timeout: Duration,
    pub drain: Duration,
    pub log: Log,
    /// How many threads run guests.
    pub threads: usize,
    /// The file that the guest was mapped from.
    pub artifact: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            address: None,
            backlog: None,
            reuse: None,
            concurrency: None,
            idle: Duration::from_secs(1),
            max_connections: 1024,
            max_requests: 256,
            max_body: 1 << 30,
            max_headers: 64 << 10,
            max_memory: None,
            fuel: None,
            timeout: Duration::from_secs(60),
            client_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(25),
            log: Log::Text,
            threads: 1,
            artifact: None,
        }
    }
}

/// hyper reads a head in pieces of this size, at least one.
const LEAST_HEADERS: usize = 8 << 10;

impl Options {
    /// Sets one. The core has checked numbers, sizes, durations and choices.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let number = || -> Result<usize> {
            value.parse().map_err(|_| format_err!("the option {key}: found {value:?}, accepted: a number"))
        };
        let at_least = |least: usize| match number()? {
            n if n < least => bail!("the option {key}: found {n}, accepted: {least} or more"),
            n => Ok(n),
        };
        let duration = || Ok::<_, wasmtime::Error>(Duration::from_millis(at_least(1)? as u64));
        match key {
            "http-address" => self.address = Some(address(value).ok_or_else(|| wrong_address(key, value))?),
            "http-backlog" => self.backlog = Some(u32::try_from(at_least(1)?).unwrap_or(u32::MAX)),
            "http-reuse" => self.reuse = Some(at_least(1)?),
            "http-concurrency" => self.concurrency = Some(at_least(1)?),
            "http-idle" => self.idle = Duration::from_millis(number()? as u64),
            "http-max-connections" => self.max_connections = at_least(1)?.min(MOST),
            "http-max-requests" => self.max_requests = at_least(1)?.min(MOST),
            "http-max-body" => self.max_body = number()? as u64,
            "http-max-headers" => self.max_headers = at_least(LEAST_HEADERS)?.min(MOST),
            "max-memory" => self.max_memory = Some(number()?),
            "fuel" => self.fuel = Some(value.parse()?),
            "http-timeout" => self.timeout = duration()?,
            "http-client-timeout" => self.client_timeout = duration()?,
            "http-drain" => self.drain = Duration::from_millis(number()? as u64),
            "http-log" => {
                self.log = match value {
                    "off" => Log::Off,
                    "json" => Log::Json,
                    _ => Log::Text,
                }
            }
            "artifact" => self.artifact = Some(value.to_string()),
            "threads" => self.threads = at_least(1)?,
            _ => bail!("no option {key}"),
        }
        Ok(())
    }

    /// Where to listen: by the option, or by the guest's variables, of which that of
    /// containerd's own wasmtime shim comes before PORT.
    pub fn address(&self, env: &[(String, String)]) -> Result<Address> {
        if let Some(a) = self.address {
            return Ok(a);
        }
        if let Some(value) = variable(env, SOCKET_ADDR) {
            return address(value).ok_or_else(|| wrong_address(SOCKET_ADDR, value));
        }
        let Some(value) = variable(env, "PORT") else { return Ok(Address::Any(DEFAULT_PORT)) };
        match value.parse() {
            Ok(port) if port > 0 => Ok(Address::Any(port)),
            _ => bail!("the variable PORT: found {value:?}, accepted: a port, 1 to 65535"),
        }
    }

    pub fn backlog(&self, env: &[(String, String)]) -> Result<u32> {
        if let Some(n) = self.backlog {
            return Ok(n);
        }
        match variable(env, BACKLOG) {
            None => Ok(DEFAULT_BACKLOG),
            Some(value) => match value.parse() {
                Ok(n) if n > 0 => Ok(n),
                _ => bail!("the variable {BACKLOG}: found {value:?}, accepted: a number, 1 or more"),
            },
        }
    }
}

/// More than any machine has, and no semaphore overflows.
const MOST: usize = 1 << 28;
const DEFAULT_PORT: u16 = 8080;
const DEFAULT_BACKLOG: u32 = 1024;
const SOCKET_ADDR: &str = "WASMTIME_HTTP_PROXY_SOCKET_ADDR";
const BACKLOG: &str = "WASMTIME_HTTP_PROXY_BACKLOG";

/// The last of a name wins.
fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// An address of a host with a port, or a port.
fn address(text: &str) -> Option<Address> {
    if let Ok(a) = text.parse::<SocketAddr>() {
        let any = a.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        return (a.port() > 0).then_some(if any { Address::Any(a.port()) } else { Address::One(a) });
    }
    let text = text.strip_prefix(':').unwrap_or(text);
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let port = text.parse().ok()?;
    (port > 0).then_some(Address::Any(port))
}

fn wrong_address(what: &str, found: &str) -> wasmtime::Error {
    format_err!("{what}: found {found:?}, accepted: ADDRESS:PORT, [ADDRESS]:PORT of version 6, :PORT or PORT")
}

impl Address {
    /// What to try, in this order.
    pub fn choices(self) -> Vec<SocketAddr> {
        match self {
            Address::One(a) => vec![a],
            Address::Any(port) => vec![
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            ],
        }
    }
}

// SPDX-License-Identifier: Apache-2.0

//! The network of preview 2 and 3: wasmtime's sockets, of which the operator's policy
//! permits each use, and names that are looked up by the container's own files.

use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmshim_wasi::names::{FILES, Failure, look_up};
use wasmshim_wasi::network::{Mode, Policy, Use};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, IpSocketAddress};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostUdpSocket, IncomingDatagramStream, OutgoingDatagramStream, UdpSocket,
};
use wasmtime_wasi::p2::bindings::sync::sockets::udp as sync;
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, SocketError, subscribe};
use wasmtime_wasi::p3::bindings::sockets::ip_name_lookup::ErrorCode as ErrorCode3;
use wasmtime_wasi::p3::bindings::sockets::types::IpAddress as IpAddress3;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::sockets::WasiSocketsView;
use wasmtime_wasi::{WasiCtxBuilder, WasiView};

type Found = Result<Vec<IpAddr>, Failure>;

/// Gives a guest the sockets that the policy permits.
pub fn configure(builder: &mut WasiCtxBuilder, policy: &Arc<Policy>) {
    if policy.mode() == Mode::None {
        return;
    }
    let policy = policy.clone();
    builder.allow_tcp(true).allow_udp(true).socket_addr_check(move |address: SocketAddr, purpose| {
        let permitted = policy.permits(address, use_of(purpose));
        Box::pin(async move { permitted })
    });
}

fn use_of(purpose: SocketAddrUse) -> Use {
    match purpose {
        SocketAddrUse::TcpBind => Use::TcpBind,
        SocketAddrUse::TcpListen => Use::TcpListen,
        SocketAddrUse::TcpAccept => Use::TcpAccept,
        SocketAddrUse::TcpConnect => Use::TcpConnect,
        SocketAddrUse::UdpBind => Use::UdpBind,
        SocketAddrUse::UdpSend => Use::UdpSend,
        SocketAddrUse::UdpReceive => Use::UdpReceive,
    }
}

/// A name that is being looked up, preview 2's resolve-address-stream.
enum Lookup {
    Pending(AbortOnDropJoinHandle<Found>),
    Done(Result<std::vec::IntoIter<IpAddr>, Failure>),
}

impl Lookup {
    async fn done(&mut self) {
        if let Lookup::Pending(found) = self {
            let found = found.await;
            *self = Lookup::Done(found.map(Vec::into_iter));
        }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        self.done().await;
    }
}

fn code(failure: Failure) -> ErrorCode {
    match failure {
        Failure::Denied => ErrorCode::AccessDenied,
        Failure::Invalid => ErrorCode::InvalidArgument,
        Failure::Unresolvable => ErrorCode::NameUnresolvable,
        Failure::Temporary => ErrorCode::TemporaryResolverFailure,
        Failure::Permanent => ErrorCode::PermanentResolverFailure,
    }
}

fn code3(failure: Failure) -> ErrorCode3 {
    match failure {
        Failure::Denied => ErrorCode3::AccessDenied,
        Failure::Invalid => ErrorCode3::InvalidArgument,
        Failure::Unresolvable => ErrorCode3::NameUnresolvable,
        Failure::Temporary => ErrorCode3::TemporaryResolverFailure,
        Failure::Permanent => ErrorCode3::PermanentResolverFailure,
    }
}

/// Defines preview 2's wasi:sockets/ip-name-lookup, instead of wasmtime's, whose type
/// of a lookup cannot be made by others. It has to be of wasmtime's version: of several
/// a guest is given the newest.
pub fn define_p2<T: WasiView>(linker: &mut Linker<T>, policy: Arc<Policy>) -> wasmtime::Result<()> {
    let mut lookups = linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?;
    lookups.resource(
        "resolve-address-stream",
        ResourceType::host::<Lookup>(),
        |mut store: StoreContextMut<'_, T>, rep| {
            store.data_mut().ctx().table.delete(Resource::<Lookup>::new_own(rep))?;
            Ok(())
        },
    )?;
    lookups.func_wrap(
        "resolve-addresses",
        move |mut store: StoreContextMut<'_, T>, (network, name): (Resource<Network>, String)| {
            let table = store.data_mut().ctx().table;
            table.get(&network)?;
            if policy.mode() == Mode::None {
                return Ok((Err(code(Failure::Permanent)),));
            }
            let policy = policy.clone();
            let found = spawn(async move { look_up(&policy, FILES, &name).await });
            Ok((Ok::<_, ErrorCode>(table.push(Lookup::Pending(found))?),))
        },
    )?;
    lookups.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, T>, (lookup,): (Resource<Lookup>,)| {
            let next = match store.data_mut().ctx().table.get_mut(&lookup)? {
                Lookup::Done(Ok(found)) => Ok(found.next().map(IpAddress::from)),
                Lookup::Done(Err(failure)) => Err(code(*failure)),
                Lookup::Pending(_) => Err(ErrorCode::WouldBlock),
            };
            Ok((next,))
        },
    )?;
    lookups.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, T>, (lookup,): (Resource<Lookup>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().ctx().table, lookup)?;
            Ok((pollable,))
        },
    )
}

/// The same of preview 3, and of wasmtime's version.
pub fn define_p3<T: WasiView>(linker: &mut Linker<T>, policy: Arc<Policy>) -> wasmtime::Result<()> {
    let mut lookups = linker.instance("wasi:sockets/ip-name-lookup@0.3.0")?;
    lookups.func_wrap_concurrent("resolve-addresses", move |_, (name,): (String,)| {
        let policy = policy.clone();
        Box::pin(async move {
            let found = look_up(&policy, FILES, &name).await.map_err(code3);
            Ok((found.map(|all| all.into_iter().map(IpAddress3::from).collect::<Vec<_>>()),))
        })
    })
}

/// What wasmtime says of a socket whose streams were dropped, as long as another thread has not
/// yet given up what it received for them.
const IN_USE: &str = "`connect` needs exclusive access";

/// That takes no time to speak of.
const PATIENCE: Duration = Duration::from_secs(1);

type Streams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);

/// Says what a guest is told, or that wasmtime is to be asked again: it would end the guest.
fn told(
    answer: Result<Streams, SocketError>,
    begun: Instant,
) -> ControlFlow<wasmtime::Result<(Result<Streams, ErrorCode>,)>> {
    let failed = match answer {
        Ok(streams) => return ControlFlow::Break(Ok((Ok(streams),))),
        Err(e) => e.downcast(),
    };
    match failed {
        Err(e) if e.to_string() == IN_USE && begun.elapsed() < PATIENCE => ControlFlow::Continue(()),
        failed => ControlFlow::Break(failed.map(|code| (Err(code),))),
    }
}

/// Defines how a guest gets the streams of a UDP socket, over wasmtime's own way.
pub fn define_udp<T: WasiView>(linker: &mut Linker<T>, asynchronous: bool) -> wasmtime::Result<()> {
    const NAME: &str = "[method]udp-socket.stream";
    const PAUSE: Duration = Duration::from_micros(100);
    type Asked = (Resource<UdpSocket>, Option<IpSocketAddress>);
    let mut udp = linker.instance("wasi:sockets/udp@0.2.12")?;
    if !asynchronous {
        return udp.func_wrap(NAME, |mut store: StoreContextMut<'_, T>, (socket, to): Asked| {
            let begun = Instant::now();
            loop {
                let asked = Resource::new_borrow(socket.rep());
                let answer = sync::HostUdpSocket::stream(&mut store.data_mut().sockets(), asked, to);
                match told(answer, begun) {
                    ControlFlow::Break(told) => return told,
                    ControlFlow::Continue(()) => std::thread::sleep(PAUSE),
                }
            }
        });
    }
    udp.func_wrap_async(NAME, |mut store: StoreContextMut<'_, T>, (socket, to): Asked| {
        Box::new(async move {
            let begun = Instant::now();
            loop {
                let asked = Resource::new_borrow(socket.rep());
                let answer = HostUdpSocket::stream(&mut store.data_mut().sockets(), asked, to).await;
                match told(answer, begun) {
                    ControlFlow::Break(told) => return told,
                    ControlFlow::Continue(()) => tokio::task::yield_now().await,
                }
            }
        })
    })
}

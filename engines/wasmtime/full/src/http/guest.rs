// SPDX-License-Identifier: Apache-2.0

//! An instance of a service, and what it is given.

use super::options::Options;
use crate::client::{self, Client};
use crate::clock::Clock;
use crate::streams::Standard;
use crate::{net, p2, p3};
use std::sync::Arc;
use wasmshim_wasi::network::Policy;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Result, Store, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_http::{p2 as http2, p3 as http3};

/// Which version of wasi:http calls a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    P2,
    P3,
}

/// Says whether a component is a service.
pub fn version_of(component: &Component) -> Option<Version> {
    let ty = component.component_type();
    let mut exports = ty.exports(component.engine());
    exports.find_map(|(name, item)| match item.ty {
        ComponentItem::ComponentInstance(_) if name.starts_with("wasi:http/incoming-handler@0.2.") => {
            Some(Version::P2)
        }
        ComponentItem::ComponentInstance(_) if name.starts_with("wasi:http/handler@0.3.") => {
            Some(Version::P3)
        }
        _ => None,
    })
}

/// What each instance starts with.
pub struct Setup {
    network: Arc<Policy>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// A directory, and what the guest calls it.
    pub dirs: Vec<(String, String)>,
    pub cwd: String,
}

impl Setup {
    pub fn new(network: Arc<Policy>) -> Setup {
        Setup { network, args: Vec::new(), env: Vec::new(), dirs: Vec::new(), cwd: String::new() }
    }

    /// Opens the directories: once, for all instances.
    fn files(&self) -> Result<WasiFilesystemCtx> {
        let mut b = WasiCtxBuilder::new();
        // What a file makes wait is short; what a network does, is not done so.
        b.allow_blocking_current_thread(true);
        for (host, guest) in &self.dirs {
            b.preopened_dir(host, guest, FsPerms::ReadWrite)?;
        }
        Ok(b.build().filesystem().clone())
    }

    fn context(&self, files: &WasiFilesystemCtx) -> WasiCtx {
        let mut b = WasiCtxBuilder::new();
        b.args(&self.args)
            .envs(&self.env)
            .stdout(Standard(rustix::stdio::stdout()))
            .stderr(Standard(rustix::stdio::stderr()))
            .monotonic_clock(Clock(0))
            .initial_cwd(self.cwd.clone());
        net::configure(&mut b, &self.network);
        let mut context = b.build();
        *context.filesystem() = files.clone();
        context
    }
}

/// What belongs to a store.
pub struct Host {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    limits: StoreLimits,
    client: Client,
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.client, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Makes instances.
pub struct Factory {
    engine: Engine,
    pre: ProxyPre<Host>,
    setup: Setup,
    files: WasiFilesystemCtx,
    limits: StoreLimits,
    field_size: usize,
    fuel: Option<u64>,
}

pub struct Instance {
    pub store: Store<Host>,
    pub proxy: Proxy,
}

impl Factory {
    pub fn new(component: &Component, version: Version, setup: Setup, o: &Options) -> Result<Arc<Factory>> {
        let engine = component.engine().clone();
        let mut linker = Linker::new(&engine);
        let network = &setup.network;
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        if version == Version::P3 {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        }
        linker.allow_shadowing(true);
        p2::define(&mut linker)?;
        net::define_p2(&mut linker, network.clone())?;
        net::define_udp(&mut linker, true)?;
        if version == Version::P3 {
            p3::define(&mut linker)?;
            net::define_p3(&mut linker, network.clone())?;
        }
        http2::add_only_http_to_linker_async(&mut linker)?;
        client::define_errors(&mut linker)?;
        linker.allow_shadowing(false);
        let pre = match version {
            Version::P2 => {
                let pre = linker.instantiate_pre(component)?;
                ProxyPre::P2(http2::bindings::ProxyPre::new(pre)?)
            }
            Version::P3 => {
                http3::add_to_linker(&mut linker)?;
                let pre = linker.instantiate_pre(component)?;
                ProxyPre::P3(http3::bindings::ServicePre::new(pre)?)
            }
        };
        let mut limits = StoreLimitsBuilder::new();
        if let Some(bytes) = o.max_memory {
            limits = limits.memory_size(bytes);
        }
        // wasmtime counts what it needs to hold them, beside their bytes.
        let field_size = o.max_headers.saturating_mul(4).max(128 << 10);
        let files = setup.files()?;
        Ok(Arc::new(Factory { engine, pre, setup, files, limits: limits.build(), field_size, fuel: o.fuel }))
    }

    pub async fn instance(&self) -> Result<Instance> {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(self.field_size);
        let host = Host {
            table: ResourceTable::new(),
            wasi: self.setup.context(&self.files),
            http,
            limits: self.limits.clone(),
            client: Client,
        };
        let mut store = Store::new(&self.engine, host);
        store.limiter(|host| &mut host.limits);
        if let Some(fuel) = self.fuel {
            store.set_fuel(fuel)?;
        }
        // Each turn of the clock the guest lets others run, and its time be looked at.
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let proxy = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance { store, proxy })
    }
}

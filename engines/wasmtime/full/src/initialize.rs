// SPDX-License-Identifier: Apache-2.0

//! Guests that are initialised ahead: a function of theirs is called, and what it leaves
//! in memories and globals becomes part of the code.
//!
//! The function finds WASI as a machine has it on which there is nothing: clocks and
//! randomness, but no arguments, variables, files or network. What it is told here is the
//! same in all containers that are made of the code later.

use crate::clock::{self, Clock};
use crate::handles;
use crate::streams::Said;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wasmshim_wasi::kept::Kept;
use wasmshim_wasi::p1::Guest;
use wasmtime::component::types::{self, ComponentItem};
use wasmtime::component::{
    self, Component, ComponentExportIndex, Lift, ResourceTable, ResourceType, WasmList,
};
use wasmtime::{Engine, ExternType, Func, Instance, Linker, Module, Result, Store, Val, bail};
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::sync::io::streams::{Error, InputStream, OutputStream};
use wasmtime_wasi::p2::{DynPollable, add_to_linker_sync};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wizer::{ComponentInstanceState, InstanceState, SnapshotVal, ValType, Wizer};

/// Of what a guest finds here. Artifacts of guests that found something else are not used.
pub const VERSION: u32 = 2;

/// The machine on which there is nothing.
struct Machine {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Machine {
    fn new(kept: &Arc<Kept>) -> Machine {
        let mut wasi = WasiCtx::builder();
        wasi.stdout(Said(kept.clone()))
            .stderr(Said(kept.clone()))
            .allow_blocking_current_thread(true)
            // Less than any machine's, so that it does not go back later.
            .monotonic_clock(Clock(clock::now()));
        Machine { wasi: wasi.build(), table: ResourceTable::new() }
    }
}

impl WasiView for Machine {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// The import that a guest has called, which nobody has here.
#[derive(Debug)]
struct Import(String);

impl std::fmt::Display for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "it called the import {}, which is not there while a guest is initialised: what it would be told belongs to \
             one container, and what is initialised to all",
            self.0
        )
    }
}

impl std::error::Error for Import {}

/// Initialises a module or a component by the function that it exports under this name;
/// one of an exported instance is INSTANCE.FUNCTION. Returns the guest as it is then. Sets
/// written to the end of what it wrote, as one line, and trapped where it trapped.
pub fn initialize(
    engine: &Engine,
    wasm: &[u8],
    function: &str,
    written: &mut String,
    trapped: &mut bool,
) -> Result<Vec<u8>> {
    let kept = Arc::new(Kept::new()?);
    let made = make(engine, wasm, function, &kept, trapped);
    *written = kept.line();
    made
}

fn make(
    engine: &Engine,
    wasm: &[u8],
    function: &str,
    kept: &Arc<Kept>,
    trapped: &mut bool,
) -> Result<Vec<u8>> {
    let mut wizer = Wizer::new();
    // It may be the entrypoint, too.
    wizer.init_func(function).keep_init_func(true);
    let mut store = Store::new(engine, Machine::new(kept));
    // As long as the guest's own time; and what it counts is not this.
    store.set_epoch_deadline(1);
    let _ = store.set_fuel(u64::MAX);
    if wasm.get(6..8) == Some(&[1, 0]) {
        let (context, instrumented) = wizer.instrument_component(wasm)?;
        let component = Component::new(engine, instrumented)?;
        let instance = call_component(&mut store, &component, function, trapped)?;
        at_once(wizer.snapshot_component(&context, &mut ComponentState { store, instance }))
    } else {
        let (context, instrumented) = wizer.instrument(wasm)?;
        let module = Module::new(engine, instrumented)?;
        let instance = call_module(&mut store, &module, function, kept, trapped)?;
        at_once(wizer.snapshot(&context, &mut ModuleState { store, instance }))
    }
}

/// The result of what never waits: nothing here is asynchronous but by its type.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("it waits for nothing"),
    }
}

/// The error of a call: an import that is not there is no trap, nor is an exit.
fn failed(e: wasmtime::Error, trapped: &mut bool) -> wasmtime::Error {
    if let Some(Import(name)) = e.downcast_ref() {
        return Import(name.clone()).into();
    }
    if let Some(I32Exit(code)) = e.downcast_ref() {
        return wasmtime::format_err!(
            "it exited, with status {code}, where a function that initialises returns"
        );
    }
    *trapped = true;
    e
}

fn call_module(
    store: &mut Store<Machine>,
    module: &Module,
    function: &str,
    kept: &Arc<Kept>,
    trapped: &mut bool,
) -> Result<Instance> {
    match module.get_export(function) {
        Some(ExternType::Func(ty)) if ty.params().len() == 0 && ty.results().len() == 0 => {}
        Some(ExternType::Func(_)) => {
            bail!("\"{function}\" has parameters or results; accepted: a function without any")
        }
        Some(_) => bail!("its export \"{function}\" is not a function"),
        None => {
            let functions: Vec<_> =
                module.exports().filter(|e| e.ty().func().is_some()).map(|e| e.name()).collect();
            bail!("it has no export \"{function}\"; exported functions: {}", list(&functions))
        }
    }
    if module.exports().any(|e| e.ty().memory().is_some_and(|m| m.is_shared())) {
        bail!("it has a memory that threads share, which is not kept");
    }
    let mut linker = preview1(store.engine(), kept)?;
    for import in module.imports() {
        let ExternType::Func(ty) = import.ty() else { continue };
        let served = linker.get(&mut *store, import.module(), import.name()).is_ok();
        // What is about sockets is not served, though there it is: none is open.
        if served && !import.name().starts_with("sock_") {
            continue;
        }
        let name = format!("{}::{}", import.module(), import.name());
        let stub = Func::new(&mut *store, ty, move |_, _, _| Err(Import(name.clone()).into()));
        linker.define(&mut *store, import.module(), import.name(), stub)?;
    }
    let instance = linker.instantiate(&mut *store, module).map_err(|e| failed(e, trapped))?;
    // A reactor's first call, which it is spared later.
    for name in ["_initialize", function] {
        if let Ok(f) = instance.get_typed_func::<(), ()>(&mut *store, name) {
            f.call(&mut *store, ()).map_err(|e| failed(e, trapped))?;
        }
        if name == function {
            break;
        }
    }
    Ok(instance)
}

/// WASI preview 1 of the machine on which there is nothing.
fn preview1(engine: &Engine, kept: &Arc<Kept>) -> Result<Linker<Machine>> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(true);
    let mut guest = Guest::default();
    guest.since = clock::now();
    guest.give_kept_streams(kept).map_err(|e| wasmtime::format_err!("it gets no streams: error {}", e.0))?;
    handles::define(&mut linker, guest)?;
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> Result<()> {
        Err(I32Exit(code).into())
    })?;
    Ok(linker)
}

fn call_component(
    store: &mut Store<Machine>,
    component: &Component,
    function: &str,
    trapped: &mut bool,
) -> Result<component::Instance> {
    let engine = store.engine().clone();
    let Some((item, index)) = find(component, function) else {
        let ty = component.component_type();
        // Not those that instrumenting has added.
        let exports: Vec<_> = ty
            .exports(&engine)
            .map(|(name, _)| name)
            .filter(|name| !name.starts_with("wasmtime:wizer/"))
            .collect();
        bail!("it has no export \"{function}\"; its exports: {}", list(&exports))
    };
    match item {
        ComponentItem::ComponentFunc(ty) if ty.params().len() == 0 && ty.results().len() == 0 => {}
        ComponentItem::ComponentFunc(_) => {
            bail!("\"{function}\" has parameters or results; accepted: a function without any")
        }
        _ => bail!("its export \"{function}\" is not a function"),
    }
    let mut linker = component::Linker::<Machine>::new(&engine);
    add_to_linker_sync(&mut linker)?;
    linker.allow_shadowing(true);
    let lent = lent(&engine, component);
    for (name, item) in component.component_type().imports(&engine) {
        if !is_served(name) {
            stub(&engine, &lent, &mut linker.root(), "", name, &item.ty)?;
        }
    }
    let instance = linker.instantiate(&mut *store, component).map_err(|e| failed(e, trapped))?;
    let func = instance.get_typed_func::<(), ()>(&mut *store, index)?;
    func.call(&mut *store, ()).map_err(|e| failed(e, trapped))?;
    if !store.data().table.is_empty() {
        bail!(
            "it has kept a stream, or another resource of WASI's, which is not there later: accepted is what drops \
             them before it returns"
        );
    }
    Ok(instance)
}

/// What a component finds here: WASI 0.2 without its network.
fn is_served(import: &str) -> bool {
    let parts = import.strip_prefix("wasi:").and_then(|rest| rest.split_once('/'));
    parts.is_some_and(|(package, rest)| {
        matches!(package, "cli" | "clocks" | "filesystem" | "io" | "random")
            && rest.split_once('@').is_some_and(|(_, version)| version.starts_with("0.2."))
    })
}

/// The resources of what is served that other interfaces speak of, as the component and as
/// the machine calls them.
fn lent(engine: &Engine, component: &Component) -> Vec<(ResourceType, ResourceType)> {
    let mut all = Vec::new();
    let ty = component.component_type();
    for (_, item) in ty.imports(engine).filter(|(name, _)| is_served(name)) {
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        for (name, item) in instance.exports(engine) {
            let ComponentItem::Resource(theirs) = item.ty else { continue };
            let own = match name {
                "pollable" => ResourceType::host::<DynPollable>(),
                "input-stream" => ResourceType::host::<InputStream>(),
                "output-stream" => ResourceType::host::<OutputStream>(),
                "error" => ResourceType::host::<Error>(),
                "descriptor" => ResourceType::host::<Descriptor>(),
                _ => continue,
            };
            all.push((theirs, own));
        }
    }
    all
}

/// Functions' names have no dot, the versions of instances have.
fn find(component: &Component, name: &str) -> Option<(ComponentItem, ComponentExportIndex)> {
    component.get_export(None, name).or_else(|| {
        let (instance, function) = name.rsplit_once('.')?;
        let (_, instance) = component.get_export(None, instance)?;
        component.get_export(Some(&instance), function)
    })
}

/// Defines an import as what fails when it is called.
fn stub(
    engine: &Engine,
    lent: &[(ResourceType, ResourceType)],
    linker: &mut component::LinkerInstance<'_, Machine>,
    within: &str,
    name: &str,
    item: &ComponentItem,
) -> Result<()> {
    match item {
        ComponentItem::ComponentFunc(ty) => {
            let full = if within.is_empty() { name.to_string() } else { format!("{within}.{name}") };
            define(linker, ty, name, full)
        }
        ComponentItem::ComponentInstance(instance) => {
            let mut inner = linker.instance(name)?;
            for (export, item) in instance.exports(engine) {
                stub(engine, lent, &mut inner, name, export, &item.ty)?;
            }
            Ok(())
        }
        ComponentItem::Resource(theirs) => {
            let own = lent.iter().find(|(t, _)| t == theirs).map(|(_, own)| *own);
            linker.resource(name, own.unwrap_or_else(ResourceType::host::<()>), |_, _| Ok(()))
        }
        _ => Ok(()),
    }
}

fn define(
    linker: &mut component::LinkerInstance<'_, Machine>,
    ty: &types::ComponentFunc,
    name: &str,
    full: String,
) -> Result<()> {
    if ty.async_() {
        return linker.func_new_concurrent(name, move |_, _, _, _| {
            let full = full.clone();
            Box::pin(async move { Err(Import(full).into()) })
        });
    }
    linker.func_new(name, move |_, _, _, _| Err(Import(full.clone()).into()))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".to_string() } else { names.join(", ") }
}

struct ModuleState {
    store: Store<Machine>,
    instance: Instance,
}

impl InstanceState for ModuleState {
    async fn global_get(&mut self, name: &str, _: ValType) -> SnapshotVal {
        let global = self.instance.get_global(&mut self.store, name).expect("instrumenting has exported it");
        match global.get(&mut self.store) {
            Val::I32(x) => SnapshotVal::I32(x),
            Val::I64(x) => SnapshotVal::I64(x),
            Val::F32(x) => SnapshotVal::F32(x),
            Val::F64(x) => SnapshotVal::F64(x),
            Val::V128(x) => SnapshotVal::V128(x.as_u128()),
            _ => unreachable!("instrumenting refuses globals that hold references"),
        }
    }

    async fn memory_contents(&mut self, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        let memory = self.instance.get_memory(&mut self.store, name).expect("instrumenting has exported it");
        contents(memory.data(&self.store));
    }
}

struct ComponentState {
    store: Store<Machine>,
    instance: component::Instance,
}

impl ComponentState {
    /// What an accessor returns, which instrumenting has added.
    fn get<R: Lift + 'static>(&mut self, instance: &str, func: &str) -> R {
        self.find(instance, func).expect("instrumenting has exported it")
    }

    fn find<R: Lift + 'static>(&mut self, instance: &str, func: &str) -> Option<R> {
        let (_, within) = self.instance.get_export(&mut self.store, None, instance)?;
        let (_, func) = self.instance.get_export(&mut self.store, Some(&within), func)?;
        let func = self.instance.get_typed_func::<(), (R,)>(&mut self.store, func).ok()?;
        Some(func.call(&mut self.store, ()).ok()?.0)
    }
}

impl ComponentInstanceState for ComponentState {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let list: WasmList<u8> = self.get(instance, func);
        contents(list.as_le_slice(&self.store));
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.get(instance, func)
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.get(instance, func)
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.get::<f32>(instance, func).to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.get::<f64>(instance, func).to_bits()
    }
}

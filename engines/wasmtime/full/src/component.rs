// SPDX-License-Identifier: Apache-2.0

//! Calls of components that need more than wasmtime's C API has: those that run
//! asynchronously, and those whose results are printed.

use std::io::Write;
use wasmtime::StoreContextMut;
use wasmtime::component::{Component, ComponentExportIndex, Linker, Val};
use wasmtime::{AsContextMut, bail};
use wasmtime_c_api::WasmtimeStoreData;
use wasmtime_wasi::runtime::in_tokio;

/// Calls an export to its end, and returns what it has returned. An entrypoint has no
/// parameters. Sets started before it runs.
pub fn call(
    mut store: StoreContextMut<'_, WasmtimeStoreData>,
    linker: &Linker<WasmtimeStoreData>,
    component: &Component,
    export: &ComponentExportIndex,
    started: &mut bool,
) -> wasmtime::Result<Option<Val>> {
    in_tokio(async move {
        let instance = linker.instantiate_async(store.as_context_mut(), component).await?;
        let Some(func) = instance.get_func(store.as_context_mut(), export) else {
            bail!("the export is not a function; one of an instance is run by INSTANCE.FUNCTION");
        };
        let ty = func.ty(store.as_context_mut());
        let (params, results) = (ty.params().len(), ty.results().len());
        if params > 0 {
            bail!("it takes {params} parameters; an entrypoint takes none");
        }
        let mut results = vec![Val::Bool(false); results];
        *started = true;
        func.call_async(store.as_context_mut(), &[], &mut results).await?;
        Ok(results.pop())
    })
}

/// Prints a value as one line of WAVE. Resources and the like have no text.
pub fn print(value: &Val) -> wasmtime::Result<()> {
    let line = value.to_wave()?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

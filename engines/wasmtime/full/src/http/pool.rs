// SPDX-License-Identifier: Apache-2.0

//! Memory for guests that are made anew for each request: kept from one to the next,
//! so that the kernel is asked for little. Where instances are reused it would gain
//! nothing, and hold what is not used.

use super::options::Options;
use wasmtime::component::Component;
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Result};

/// So much of a memory and a table is emptied, not given back to the kernel, which would
/// have to tell the other CPUs; more of it where the kernel says what was written.
const KEPT: usize = 64 << 10;
const KEPT_OF_WRITTEN: usize = 256 << 10;
const TABLE_ELEMENTS: usize = 100_000;

/// The same component in an engine that keeps memory; None where it cannot be had,
/// and all goes on without.
pub fn pooled(component: &Component, o: &Options) -> Option<Component> {
    let needs = component.resources_required()?;
    let at_once = u32::try_from(o.max_requests).ok()?.checked_add(1)?;
    let memories = at_once.checked_mul(needs.num_memories)?;
    let tables = at_once.checked_mul(needs.num_tables)?;
    let kept = if PoolingAllocationConfig::is_pagemap_scan_available() { KEPT_OF_WRITTEN } else { KEPT };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(at_once)
        .total_core_instances(at_once.checked_mul(64)?)
        .total_memories(memories)
        .total_tables(tables)
        .total_stacks(at_once)
        .total_gc_heaps(at_once)
        .max_memories_per_component(needs.num_memories.max(1))
        .max_tables_per_component(needs.num_tables.max(1))
        .max_core_instance_size(1 << 20)
        .max_component_instance_size(1 << 20)
        .max_tables_per_module(needs.num_tables.max(1))
        .max_memories_per_module(needs.num_memories.max(1))
        .table_elements(TABLE_ELEMENTS.max(usize::try_from(needs.max_initial_table_size.unwrap_or(0)).ok()?))
        .linear_memory_keep_resident(kept)
        .table_keep_resident(kept)
        .pagemap_scan(Enabled::Auto)
        .max_unused_warm_slots(at_once);
    let mut config = component.engine().config().clone();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    again(&Engine::new(&config).ok()?, component, o.artifact.as_deref()).ok()
}

fn again(engine: &Engine, component: &Component, artifact: Option<&str>) -> Result<Component> {
    // SAFETY: it is what the other engine has made, or was given, of the same guest.
    unsafe {
        if let Some(file) = artifact
            && let Ok(component) = Component::deserialize_file(engine, file)
        {
            return Ok(component);
        }
        Component::deserialize(engine, component.serialize()?)
    }
}

// SPDX-License-Identifier: Apache-2.0

//! Options as wasmtime's command takes them: -C, -D, -O and -W.

use clap::Parser;
use wasmtime::{Config, Engine};
use wasmtime_cli_flags::CommonOptions;

/// What the command applies by other means than a configuration, or what is the
/// engine's own: beside each, what is to be used.
const OTHERS: &[(&str, &str)] = &[
    ("help", "no help: wasmtime's command has it"),
    ("help-long", "no help: wasmtime's command has it"),
    ("fuel", "the engine option fuel"),
    ("timeout", "the engine option timeout"),
    ("epoch-interruption", "the engine option timeout"),
    ("max-memory-size", "the engine option max-memory"),
    ("max-wasm-stack", "the engine option max-wasm-stack"),
    ("async-stack-size", "the engine option max-wasm-stack"),
    ("max-table-elements", NONE),
    ("max-instances", NONE),
    ("max-tables", NONE),
    ("max-memories", NONE),
    ("trap-on-grow-failure", NONE),
    ("unknown-exports-allow", NONE),
    ("unknown-imports-trap", NONE),
    ("unknown-imports-default", NONE),
    ("guest-debug", NONE),
    ("logging", NONE),
    ("log-to-files", NONE),
    ("coredump", NONE),
    ("debugger", NONE),
    ("arg", NONE),
    ("inherit-stdin", NONE),
    ("inherit-stdout", NONE),
    ("inherit-stderr", NONE),
    ("cache", NONE),
    ("cache-config", NONE),
    ("concurrency-support", NONE),
];

const NONE: &str = "what changes the engine's configuration";

/// The words of a text, each with its flag. A comma is between values of one flag and,
/// in a list, between flags.
fn words(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut flag = None;
    let mut all = Vec::new();
    for mut word in text.split([',', ' ', '\t', '\n']).filter(|w| !w.is_empty()) {
        if let Some(rest) = word.strip_prefix('-') {
            let letter = rest.chars().next().filter(|c| "CDOW".contains(*c));
            let letter = letter.ok_or_else(|| format!("found \"{word}\", accepted: -C, -D, -O, -W"))?;
            flag = Some(letter);
            word = &rest[1..];
            if word.is_empty() {
                continue;
            }
        }
        let flag = flag.ok_or_else(|| format!("found \"{word}\", accepted: -C, -D, -O or -W first"))?;
        let key = word.split('=').next().unwrap_or_default();
        let other = OTHERS.iter().find(|(k, _)| *k == key).map(|(_, instead)| *instead);
        if let Some(instead) = other.or_else(|| key.starts_with("pooling").then_some(NONE)) {
            return Err(format!("found \"-{flag} {word}\", accepted: {instead}"));
        }
        all.push((format!("-{flag}"), word.to_string()));
    }
    Ok(all)
}

/// The configuration that a text makes; the error is wasmtime's, in one line.
pub fn config(text: &str) -> Result<Config, String> {
    let mut args = vec!["wasmtime".to_string()];
    for (flag, word) in words(text)? {
        args.push(flag);
        args.push(word);
    }
    let parsed = CommonOptions::try_parse_from(args).map_err(|e| {
        let text = e.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_string()
    });
    let config = parsed?.config(None).map_err(|e| format!("{e:#}"))?;
    // By an engine that is tried: the C API's own function panics.
    Engine::new(&config).map_err(|e| format!("{e:#}"))?;
    Ok(config)
}

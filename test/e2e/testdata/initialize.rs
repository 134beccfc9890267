//! A program that may be initialised ahead, and says what it finds of it.

use std::collections::HashMap;
use std::sync::Mutex;

static PREPARED: Mutex<Option<HashMap<u32, String>>> = Mutex::new(None);

fn file() -> bool {
    std::fs::read_to_string("/etc/motd").is_ok()
}

fn variable() -> String {
    std::env::var("NAME").unwrap_or("none".to_string())
}

fn prepared(what: &str) {
    let table = (0..1000).map(|i| (i, format!("{what} {i}"))).collect();
    *PREPARED.lock().unwrap() = Some(table);
}

#[unsafe(no_mangle)]
pub extern "C" fn prepare() {
    prepared("prepared");
}

#[unsafe(no_mangle)]
pub extern "C" fn speak() {
    println!("to nobody");
    prepared("spoke");
}

#[unsafe(no_mangle)]
pub extern "C" fn look() {
    prepared(&format!("file {}", file()));
}

#[unsafe(no_mangle)]
pub extern "C" fn ask() {
    prepared(&format!("variable {}", variable()));
}

#[unsafe(no_mangle)]
pub extern "C" fn count() {
    prepared(&format!("arguments {}", std::env::args().count()));
}

fn main() {
    let table = PREPARED.lock().unwrap().take().unwrap_or_default();
    let arguments: Vec<String> = std::env::args().collect();
    println!("{} {:?}; file {}, variable {}, arguments {arguments:?}", table.len(), table.get(&777), file(), variable());
}

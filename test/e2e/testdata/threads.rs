// SPDX-License-Identifier: Apache-2.0

// A guest that has threads.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use std::{env, fs, process, thread};

fn forever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn main() {
    match env::args().nth(1).as_deref() {
        // All of them do something, and one is waited for after the other.
        Some("work") => {
            let (sum, list) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
            let threads: Vec<_> = (0..8u64)
                .map(|i| {
                    let (sum, list) = (sum.clone(), list.clone());
                    thread::spawn(move || {
                        fs::write(format!("/tmp/{i}"), i.to_string()).unwrap();
                        for _ in 0..10_000 {
                            sum.fetch_add(1, Ordering::Relaxed);
                        }
                        list.lock().unwrap().push(i);
                        i
                    })
                })
                .collect();
            let joined: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
            let read: u64 = (0..8).map(|i| fs::read_to_string(format!("/tmp/{i}")).unwrap().parse::<u64>().unwrap()).sum();
            println!("{} {} {joined} {read}", sum.load(Ordering::Relaxed), list.lock().unwrap().len());
        }
        // As many as there were never at once.
        Some("series") => {
            for i in 0..2000u32 {
                assert_eq!(thread::spawn(move || i).join().unwrap(), i);
            }
            println!("done");
        }
        // One waits for what never comes; the others do not.
        Some("blocked") => {
            let (tell, told) = mpsc::channel();
            thread::spawn(move || {
                tell.send(()).unwrap();
                let _ = std::io::stdin().read(&mut [0; 1]);
            });
            told.recv().unwrap();
            thread::sleep(Duration::from_millis(20));
            fs::write("/tmp/blocked", "not").unwrap();
            println!("{}", fs::read_to_string("/tmp/blocked").unwrap());
            process::exit(7);
        }
        Some("exit") => {
            thread::spawn(|| process::exit(3));
            forever();
        }
        Some("panic") => {
            thread::spawn(|| panic!("of a thread"));
            forever();
        }
        Some("return") => {
            thread::spawn(|| forever());
        }
        Some("loop") => {
            thread::spawn(|| {
                let mut i = 0u64;
                loop {
                    i = std::hint::black_box(i + 1);
                }
            });
            forever();
        }
        Some("most") => {
            let mut n = 0;
            let error = loop {
                match thread::Builder::new().spawn(|| forever()) {
                    Ok(_) => n += 1,
                    Err(e) => break e,
                }
            };
            println!("{} {:?}", n > 0, error.kind());
        }
        // More memory than it may have.
        Some("grow") => {
            let all: Vec<_> = (0..64).map(|_| thread::spawn(|| Vec::<u8>::with_capacity(4 << 20))).collect();
            let all: Vec<_> = all.into_iter().map(|t| t.join()).collect();
            println!("{}", all.len());
        }
        other => panic!("{other:?}"),
    }
}

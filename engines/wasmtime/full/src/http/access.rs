// SPDX-License-Identifier: Apache-2.0

//! The access log: a line for each request on the container's standard output, by a
//! thread of its own, so that a reader who does not read stops no request.

use super::options::Log;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

/// What is logged of a request.
pub struct Entry {
    pub remote: IpAddr,
    pub method: http::Method,
    pub uri: http::Uri,
    pub version: http::Version,
    pub status: u16,
    pub bytes: u64,
    pub took: Duration,
    /// Why it did not end well.
    pub error: Option<&'static str>,
}

/// So much may wait for a reader; what comes then is counted.
const MOST: usize = 1 << 20;

/// For so long a line waits for others that are written with it: the reader, too, is woken
/// once for all of them.
const GATHER: Duration = Duration::from_millis(10);

/// So much waits for no more.
const ENOUGH: usize = 16 << 10;

#[derive(Default)]
struct Waiting {
    lines: String,
    lost: u64,
    is_closed: bool,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

pub struct Access {
    form: Log,
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Access {
    pub fn new(form: Log) -> std::io::Result<Access> {
        let shared = Arc::<Shared>::default();
        let writer = if form == Log::Off {
            None
        } else {
            let shared = shared.clone();
            let run = move || write_all(&shared);
            Some(std::thread::Builder::new().stack_size(64 << 10).spawn(run)?)
        };
        Ok(Access { form, shared, writer: Mutex::new(writer) })
    }

    pub fn log(&self, entry: &Entry) {
        if self.form == Log::Off {
            return;
        }
        let now = SystemTime::now();
        let mut waiting = self.shared.waiting.lock().expect("no panic is survived");
        if waiting.lines.len() > MOST {
            waiting.lost += 1;
            return;
        }
        let before = waiting.lines.len();
        entry.write(self.form, now, &mut waiting.lines);
        let after = waiting.lines.len();
        drop(waiting);
        if before == 0 || (before < ENOUGH && after >= ENOUGH) {
            self.shared.changed.notify_one();
        }
    }

    /// Writes what is left, unless nobody reads it.
    pub fn close(&self) {
        self.shared.waiting.lock().expect("no panic is survived").is_closed = true;
        self.shared.changed.notify_one();
        let writer = self.writer.lock().expect("no panic is survived").take();
        for _ in 0..10 {
            match &writer {
                Some(w) if !w.is_finished() => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
    }
}

fn write_all(shared: &Shared) {
    loop {
        let waiting = shared.waiting.lock().expect("no panic is survived");
        let waiting = shared.changed.wait_while(waiting, |w| w.lines.is_empty() && !w.is_closed);
        let waiting = waiting.expect("no panic is survived");
        if waiting.lines.is_empty() {
            return;
        }
        let gathered =
            shared.changed.wait_timeout_while(waiting, GATHER, |w| w.lines.len() < ENOUGH && !w.is_closed);
        let (mut waiting, _) = gathered.expect("no panic is survived");
        let mut lines = std::mem::take(&mut waiting.lines);
        let lost = std::mem::take(&mut waiting.lost);
        drop(waiting);
        if lost > 0 {
            let _ = writeln!(lines, "wasmtime: {lost} requests are not in this log, which nobody read");
        }
        let mut out = std::io::stdout().lock();
        if out.write_all(lines.as_bytes()).and_then(|()| out.flush()).is_err() {
            // Nobody reads it, and nobody will.
            shared.waiting.lock().expect("no panic is survived").lines.clear();
        }
    }
}

impl Entry {
    fn write(&self, form: Log, now: SystemTime, out: &mut String) {
        let time = Time(now);
        let (ms, us) = (self.took.as_millis(), self.took.subsec_micros() % 1000);
        let target = self.uri.path_and_query().map_or("*", http::uri::PathAndQuery::as_str);
        // A String takes whatever is written.
        let _ = if form == Log::Json {
            write!(
                out,
                r#"{{"time":"{time}","remote":"{}","method":{},"target":{},"version":"{:?}","status":{},"bytes":{},"ms":{ms}.{us:03}"#,
                self.remote,
                Quoted(self.method.as_str()),
                Quoted(target),
                self.version,
                self.status,
                self.bytes,
            )
            .and_then(|()| match self.error {
                Some(e) => write!(out, r#","error":{}}}"#, Quoted(e)),
                None => out.write_char('}'),
            })
        } else {
            write!(
                out,
                "{time} {} \"{} {target} {:?}\" {} {} {ms}.{us:03}ms",
                self.remote, self.method, self.version, self.status, self.bytes,
            )
            .and_then(|()| self.error.map_or(Ok(()), |e| write!(out, " {e}")))
        };
        out.push('\n');
    }
}

/// A string of JSON.
struct Quoted<'a>(&'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c < ' ' => write!(f, "\\u{:04x}", c as u32)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A moment as RFC 3339 has it, UTC.
struct Time(SystemTime);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = date(seconds / 86400);
        let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z", since.subsec_millis())
    }
}

/// The date of a day since 1970. Years begin in March here, so that the day that
/// some have more is their last; 400 of them always have as many days.
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let of_month = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_798_761_599, "2026-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), want);
        }
    }
}

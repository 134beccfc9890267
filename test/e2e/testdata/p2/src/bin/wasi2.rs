// SPDX-License-Identifier: Apache-2.0

//! WASI 0.2 as its documentation has it: clocks, streams, files and sockets.

#[path = "../../../cases.rs"]
mod cases;

use cases::Cases;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use wasip2::cli::stdin::get_stdin;
use wasip2::cli::stdout::get_stdout;
use wasip2::cli::{terminal_stdin, terminal_stdout};
use wasip2::clocks::{monotonic_clock as monotonic, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorType, ErrorCode as FileError, NewTimestamp, OpenFlags,
    PathFlags, filesystem_error_code,
};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, StreamError};
use wasip2::random::{insecure, insecure_seed, random};
use wasip2::sockets::instance_network::instance_network;
use wasip2::sockets::network::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, Network,
};
use wasip2::sockets::tcp::{ShutdownType, TcpSocket};
use wasip2::sockets::tcp_create_socket::create_tcp_socket;
use wasip2::sockets::udp::{IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket};
use wasip2::sockets::udp_create_socket::create_udp_socket;

const MS: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * MS;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into()
}

/// A stream's error by its name, or by that of the file system.
fn said<T>(result: Result<T, StreamError>) -> Result<T, String> {
    result.map_err(|e| match e {
        StreamError::Closed => "closed".into(),
        StreamError::LastOperationFailed(e) => {
            filesystem_error_code(&e).map_or_else(|| "failed".into(), |code| code.name().into())
        }
    })
}

fn read(stream: &InputStream, size: u64) -> Result<String, String> {
    said(stream.read(size)).map(text)
}

fn blocking_read(stream: &InputStream, size: u64) -> Result<String, String> {
    said(stream.blocking_read(size)).map(text)
}

/// All until it is closed.
fn rest(stream: &InputStream) -> String {
    let mut all = Vec::new();
    while let Ok(piece) = stream.blocking_read(1 << 20) {
        all.extend(piece);
    }
    text(all)
}

/// What is ready within some time.
fn ready(all: &[&Pollable]) -> Vec<u32> {
    let time = monotonic::subscribe_duration(2 * MS);
    let all: Vec<_> = all.iter().copied().chain([&time]).collect();
    poll(&all).into_iter().filter(|i| *i as usize != all.len() - 1).collect()
}

fn clocks(t: &mut Cases) {
    t.yes("resolution", monotonic::resolution() > 0);
    t.goes_on(monotonic::now);
    let (wall, least) = (wall_clock::now(), wall_clock::resolution());
    let host: u64 = std::env::var("NOW").expect("the time").parse().expect("a number");
    t.yes("the time of day is the host's", wall.seconds.abs_diff(host / 1_000_000_000) < 600);
    t.yes(
        "nanoseconds are a part of a second",
        wall.nanoseconds < 1_000_000_000 && least.nanoseconds < 1_000_000_000,
    );
    t.yes("its resolution", least.seconds > 0 || least.nanoseconds > 0);

    for (what, pollable) in [
        ("now", monotonic::subscribe_instant(monotonic::now())),
        ("the past", monotonic::subscribe_instant(1)),
        ("the beginning", monotonic::subscribe_instant(0)),
        ("no time", monotonic::subscribe_duration(0)),
    ] {
        pollable.block();
        t.yes(format!("{what} has come"), pollable.ready());
        pollable.block();
        t.is(format!("{what}, asked for again"), poll(&[&pollable]), vec![0]);
    }
    let begun = monotonic::now();
    let short = monotonic::subscribe_duration(5 * MS);
    let until = monotonic::subscribe_instant(begun + 5 * MS);
    for pollable in [&short, &until] {
        pollable.block();
        t.yes("it waits", monotonic::now() - begun >= 5 * MS);
    }
    let later = monotonic::subscribe_duration(HOUR);
    let never = monotonic::subscribe_instant(u64::MAX);
    t.yes("later is not now", !later.ready() && !never.ready());
    let mut come = poll(&[&later, &short, &never, &until]);
    come.sort_unstable();
    t.is("those that have come", come, vec![1, 3]);
    let soon = monotonic::subscribe_duration(2 * MS);
    t.is("the first one", poll(&[&later, &soon, &never]), vec![1]);
    let mut twice = poll(&[&short, &later, &short]);
    twice.sort_unstable();
    t.is("one that is there twice", twice, vec![0, 2]);

    let (a, b) = (random::get_random_bytes(64), random::get_random_bytes(64));
    t.is("random bytes", (a.len(), b.len(), a != b), (64, 64, true));
    t.yes("random numbers", random::get_random_u64() != random::get_random_u64());
    t.is("no random bytes", random::get_random_bytes(0), vec![]);
    t.is("insecure bytes", insecure::get_insecure_random_bytes(1000).len(), 1000);
    t.yes("insecure numbers", insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64());
    t.is("a seed is one", insecure_seed::insecure_seed(), insecure_seed::insecure_seed());
}

/// The standard streams, which are what the argument says. Standard error is for us.
fn streams(t: &mut Cases, kind: &str) {
    let is_terminal =
        (terminal_stdin::get_terminal_stdin().is_some(), terminal_stdout::get_terminal_stdout().is_some());
    t.is("a terminal", is_terminal, (kind == "terminal", kind == "terminal"));
    let (input, output) = (get_stdin(), get_stdout());
    let has_come = input.subscribe();
    if matches!(kind, "fifo" | "terminal") {
        t.is("nothing to read", read(&input, 100), Ok(String::new()));
        t.is("no bytes to read", read(&input, 0), Ok(String::new()));
        t.is("nothing to skip", said(input.skip(100)), Ok(0));
        t.is("not ready", (has_come.ready(), ready(&[&has_come])), (false, vec![]));
    }
    let permitted = output.subscribe();
    permitted.block();
    t.yes("may write", said(output.check_write()).is_ok_and(|n| n >= 3));
    t.is("write", said(output.write(b"go\n")), Ok(()));
    t.is("flush", said(output.flush()), Ok(()));
    permitted.block();
    t.yes("may write again", permitted.ready() && said(output.check_write()).is_ok_and(|n| n > 0));
    if kind != "null" {
        t.is("wait for some", blocking_read(&input, 2), Ok("in".into()));
        t.is("read none of it", read(&input, 0), Ok(String::new()));
        t.is("wait for none of it", blocking_read(&input, 0), Ok(String::new()));
        t.is("skip some", said(input.blocking_skip(1)), Ok(1));
        has_come.block();
        t.yes("the rest is ready", has_come.ready());
        t.is("the rest", read(&input, 100), Ok("ut\n".into()));
    }
    if kind != "terminal" {
        t.is("the end", blocking_read(&input, 100), Err("closed".into()));
        t.is("the end is ready", (has_come.ready(), poll(&[&has_come])), (true, vec![0]));
        for size in [100, 0] {
            t.is("closed", read(&input, size), Err("closed".into()));
            t.is("closed for those who wait", blocking_read(&input, size), Err("closed".into()));
            t.is("closed for those who skip", said(input.skip(size)), Err("closed".into()));
        }
    }
    // What else there is to write.
    t.is("write nothing", (said(output.check_write()).is_ok(), said(output.write(b""))), (true, Ok(())));
    t.is(
        "zeros",
        (said(output.check_write()).is_ok_and(|n| n > 2), said(output.write_zeroes(2))),
        (true, Ok(())),
    );
    t.is("zeros at once", said(output.blocking_write_zeroes_and_flush(1)), Ok(()));
    t.is("4096 bytes at once", said(output.blocking_write_and_flush(&[b'.'; 4096])), Ok(()));
    t.is("a line's end", said(output.blocking_write_and_flush(b"\n")), Ok(()));
    if kind == "fifo" {
        std::fs::write("/d/splice", "spliced\n").expect("written");
        let file = preopen("/d")
            .open_at(PathFlags::empty(), "splice", OpenFlags::empty(), DescriptorFlags::READ)
            .expect("opened");
        let from = file.read_via_stream(0).expect("a stream");
        t.is("splice nothing", said(output.splice(&from, 0)), Ok(0));
        t.is("splice some", said(output.blocking_splice(&from, 3)), Ok(3));
        let mut spliced = 3;
        while let Ok(n) = said(output.blocking_splice(&from, 1000)) {
            spliced += n;
        }
        t.is("splice all", spliced, 8);
        t.is("splice what has ended", said(output.splice(&from, 10)), Err("closed".into()));
        t.is("the other end is open", said(output.blocking_flush()), Ok(()));
    }
    // Each is a stream anew.
    drop(has_come);
    drop(permitted);
    t.yes("another one", said(get_stdout().check_write()).is_ok());
}

/// Standard output is a pipe of which nobody reads, until we say that it is full.
fn full(t: &mut Cases) {
    let output = get_stdout();
    let permitted = output.subscribe();
    let mut written = 2000;
    // What is taken at once, and what then stays in the pipe.
    for _ in 0..2 {
        t.is("write some", said(output.blocking_write_and_flush(&[b'x'; 1000])), Ok(()));
        monotonic::subscribe_duration(100 * MS).block();
    }
    // Never does it wait, whatever is permitted.
    loop {
        match said(output.check_write()) {
            Ok(0) if ready(&[&permitted]).is_empty() => break,
            Ok(n) => {
                let n = n.min(10_000_000);
                t.is("write what is permitted", said(output.write(&vec![b'x'; n as usize])), Ok(()));
                written += n;
            }
            Err(e) => {
                t.is("permission", e, String::new());
                break;
            }
        }
    }
    t.yes("not ready", !permitted.ready());
    t.is("flush does not wait", said(output.flush()), Ok(()));
    let (input, time) = (get_stdin(), monotonic::subscribe_duration(HOUR));
    eprintln!("full");
    // The one who reads says so.
    t.is("is read", blocking_read(&input, 1), Ok("r".into()));
    t.is("ready", poll(&[&permitted, &time]), vec![0]);
    t.yes("permitted", said(output.check_write()).is_ok_and(|n| n > 0));
    t.is("flush", said(output.blocking_flush()), Ok(()));
    eprintln!("written {written}");
}

/// Standard output is one that nobody reads any more, or that has no room; standard
/// input one that cannot be read.
fn broken(t: &mut Cases, error: &str) {
    let output = get_stdout();
    let permitted = output.subscribe();
    permitted.block();
    t.is("write", said(output.blocking_write_and_flush(b"x")), Err(error.into()));
    for _ in 0..2 {
        t.is("check", said(output.check_write()), Err("closed".into()));
        t.is("write what is closed", said(output.write(b"")), Err("closed".into()));
        t.is("flush", said(output.flush()), Err("closed".into()));
        t.is("flush and wait", said(output.blocking_flush()), Err("closed".into()));
        t.is("write and wait", said(output.blocking_write_and_flush(b"x")), Err("closed".into()));
        t.yes("is ready", permitted.ready());
    }
    let input = get_stdin();
    t.is("read", blocking_read(&input, 1), Err("is-directory".into()));
    t.is(
        "read again",
        (read(&input, 1), read(&input, 0), said(input.blocking_skip(1))),
        (Err("closed".into()), Err("closed".into()), Err("closed".into())),
    );
    t.yes("input is ready", input.subscribe().ready());
}

fn preopen(name: &str) -> Descriptor {
    preopens::get_directories().into_iter().find(|(_, n)| n == name).expect("given").0
}

/// Files by their descriptors; paths are those of paths.rs.
fn files(t: &mut Cases) {
    let d = preopen("/d");
    let open = |path: &str, open, how| d.open_at(PathFlags::empty(), path, open, how);
    let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = open("file", OpenFlags::CREATE | OpenFlags::TRUNCATE, both).expect("made");
    t.is("write", file.write(b"0123456789", 0), Ok(10));
    t.is("write over the end", file.write(b"ab", 9), Ok(2));
    t.is("write beyond the end", file.write(b"z", 13), Ok(1));
    t.is("write nothing", file.write(b"", 0), Ok(0));
    let part = |size, at| file.read(size, at).map(|(bytes, end)| (text(bytes), end));
    t.is("read", part(3, 1), Ok(("123".into(), false)));
    t.is("read over the end", part(100, 9).map(|(bytes, _)| bytes), Ok("ab\0\0z".into()));
    t.is("read at the end", part(100, 14), Ok((String::new(), true)));
    t.is("read beyond the end", part(100, 1000), Ok((String::new(), true)));
    t.is("smaller", (file.set_size(4), file.stat().map(|s| s.size)), (Ok(()), Ok(4)));
    t.is("larger", (file.set_size(6), part(100, 0).map(|p| p.0)), (Ok(()), Ok("0123\0\0".into())));
    t.is("sync", (file.sync(), file.sync_data()), (Ok(()), Ok(())));
    for advice in [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::WillNeed,
        Advice::DontNeed,
        Advice::NoReuse,
    ] {
        t.is("advice", file.advise(0, 4, advice), Ok(()));
    }
    let stat = file.stat().expect("a file");
    t.is(
        "what it is",
        (stat.type_, stat.link_count, file.get_type()),
        (DescriptorType::RegularFile, 1, Ok(DescriptorType::RegularFile)),
    );
    let at = |seconds, nanoseconds| NewTimestamp::Timestamp(wall_clock::Datetime { seconds, nanoseconds });
    let times = || {
        let stat = file.stat().expect("a file");
        let of = |t: Option<wall_clock::Datetime>| t.map(|t| (t.seconds, t.nanoseconds));
        (of(stat.data_access_timestamp), of(stat.data_modification_timestamp))
    };
    t.is("set times", file.set_times(at(1, 2), at(3, 4)), Ok(()));
    t.is("times", times(), (Some((1, 2)), Some((3, 4))));
    t.is("set one time", file.set_times(NewTimestamp::NoChange, at(5, 6)), Ok(()));
    t.is("one time", times(), (Some((1, 2)), Some((5, 6))));
    t.is("set to now", file.set_times(NewTimestamp::Now, NewTimestamp::NoChange), Ok(()));
    let (accessed, modified) = times();
    t.is(
        "now",
        (accessed.is_some_and(|a| a.0.abs_diff(wall_clock::now().seconds) < 60), modified),
        (true, Some((5, 6))),
    );

    // Streams, each at its own place.
    t.is("size", file.set_size(0), Ok(()));
    let (a, b) = (file.write_via_stream(0).expect("a stream"), file.append_via_stream().expect("a stream"));
    t.is("write to one", said(a.blocking_write_and_flush(b"hello")), Ok(()));
    t.is("and to its end", said(b.blocking_write_and_flush(b" there")), Ok(()));
    t.is("go on in the first", said(a.blocking_write_and_flush(b"!")), Ok(()));
    t.is("write by check", (said(a.check_write()).is_ok_and(|n| n > 1), said(a.write(b"T"))), (true, Ok(())));
    t.is("which is there then", said(a.blocking_flush()), Ok(()));
    let (c, e) = (file.read_via_stream(0).expect("a stream"), file.read_via_stream(6).expect("a stream"));
    t.is("read one", rest(&c), "hello!There".to_string());
    t.is("read the other", rest(&e), "There".to_string());
    t.is("both have ended", (read(&c, 1), read(&e, 0).is_err()), (Err("closed".into()), true));
    let far = file.read_via_stream(1000).expect("a stream");
    t.is("beyond the end", blocking_read(&far, 1), Err("closed".into()));

    let (reader, writer) = (
        open("file", OpenFlags::empty(), DescriptorFlags::READ).expect("opened"),
        open("file", OpenFlags::empty(), DescriptorFlags::WRITE).expect("opened"),
    );
    t.is(
        "flags",
        (reader.get_flags(), writer.get_flags()),
        (Ok(DescriptorFlags::READ), Ok(DescriptorFlags::WRITE)),
    );
    let bad = FileError::BadDescriptor;
    t.is(
        "write by a reader",
        (reader.write(b"x", 0), reader.write_via_stream(0).err(), reader.append_via_stream().err()),
        (Err(bad), Some(bad), Some(bad)),
    );
    t.is(
        "read by a writer",
        (writer.read(1, 0).err(), writer.read_via_stream(0).err()),
        (Some(bad), Some(bad)),
    );
    for device in ["/dev/null", "dev/zero"] {
        let root = preopen("/");
        let (from, to) = (
            root.open_at(PathFlags::empty(), device, OpenFlags::empty(), DescriptorFlags::READ)
                .expect("opened"),
            root.open_at(PathFlags::empty(), device, OpenFlags::empty(), DescriptorFlags::WRITE)
                .expect("opened"),
        );
        t.is(
            device,
            (from.get_type(), to.get_type()),
            (Ok(DescriptorType::CharacterDevice), Ok(DescriptorType::CharacterDevice)),
        );
        t.is(
            device,
            (from.write_via_stream(0).err(), from.append_via_stream().err(), to.read_via_stream(0).err()),
            (Some(bad), Some(bad), Some(bad)),
        );
        t.is(device, said(to.write_via_stream(0).expect("a stream").blocking_write_and_flush(b"x")), Ok(()));
    }
    let null = preopen("/")
        .open_at(PathFlags::empty(), "/dev/null", OpenFlags::empty(), DescriptorFlags::READ)
        .expect("opened");
    t.is(
        "nothing is in it",
        blocking_read(&null.read_via_stream(0).expect("a stream"), 1),
        Err("closed".into()),
    );

    // What is the same.
    let other = open("other", OpenFlags::CREATE, both).expect("made");
    t.is("the same", (reader.is_same_object(&writer), reader.is_same_object(&other)), (true, false));
    let hash = |f: &Descriptor| f.metadata_hash().map(|h| (h.lower, h.upper));
    t.is("its hash", (hash(&reader), hash(&reader) == hash(&other)), (hash(&writer), false));
    let by_path = d.metadata_hash_at(PathFlags::empty(), "file").map(|h| (h.lower, h.upper));
    t.is("its hash by its path", by_path, hash(&reader));

    d.create_directory_at("list").expect("made");
    let list = open("list", OpenFlags::DIRECTORY, DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY)
        .expect("opened");
    let entries = || {
        let all = list.read_directory().expect("a directory");
        let mut found = Vec::new();
        while let Some(entry) = all.read_directory_entry().expect("an entry") {
            found.push((entry.name, entry.type_));
        }
        assert!(all.read_directory_entry().is_ok_and(|e| e.is_none()), "it ends for good");
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    t.is("an empty directory", entries(), vec![]);
    list.create_directory_at("dir").expect("made");
    list.symlink_at("nothing", "link").expect("linked");
    list.open_at(PathFlags::empty(), "reg", OpenFlags::CREATE, both).expect("made");
    t.is(
        "a directory",
        entries(),
        vec![
            ("dir".into(), DescriptorType::Directory),
            ("link".into(), DescriptorType::SymbolicLink),
            ("reg".into(), DescriptorType::RegularFile),
        ],
    );
    t.is("a directory's type", list.get_type(), Ok(DescriptorType::Directory));
    t.is("list a file", file.read_directory().err(), Some(FileError::NotDirectory));
    t.is("below a file", file.stat_at(PathFlags::empty(), "x").map(|_| ()), Err(FileError::NotDirectory));
    t.is(
        "write a directory",
        (list.write(b"x", 0), list.write_via_stream(0).err(), list.set_size(0)),
        (Err(bad), Some(bad), Err(bad)),
    );
}

include!("../../../addresses.rs");

type Done<T = ()> = Result<T, &'static str>;

/// Without what cannot be compared, and with an error's name.
fn done<T>(result: Result<T, ErrorCode>) -> Done {
    result.map(|_| ()).map_err(code)
}

fn code(e: ErrorCode) -> &'static str {
    match e {
        ErrorCode::Unknown => "unknown",
        ErrorCode::AccessDenied => "access-denied",
        ErrorCode::NotSupported => "not-supported",
        ErrorCode::InvalidArgument => "invalid-argument",
        ErrorCode::ConcurrencyConflict => "concurrency-conflict",
        ErrorCode::NotInProgress => "not-in-progress",
        ErrorCode::WouldBlock => "would-block",
        ErrorCode::InvalidState => "invalid-state",
        ErrorCode::AddressNotBindable => "address-not-bindable",
        ErrorCode::AddressInUse => "address-in-use",
        ErrorCode::RemoteUnreachable => "remote-unreachable",
        ErrorCode::ConnectionRefused => "connection-refused",
        ErrorCode::ConnectionReset => "connection-reset",
        ErrorCode::DatagramTooLarge => "datagram-too-large",
        _ => "another error",
    }
}

const STATE: Done = Err("invalid-state");
const ARGUMENT: Done = Err("invalid-argument");
const NOT_IN_PROGRESS: Done = Err("not-in-progress");

fn options<T>(
    t: &mut Cases,
    what: &str,
    set: impl Fn(T) -> Result<(), ErrorCode>,
    get: impl Fn() -> Result<T, ErrorCode>,
    zero: T,
    values: &[(T, bool)],
) where
    T: Copy + PartialEq + std::fmt::Debug,
{
    let before = get().map_err(code);
    t.yes(format!("{what}: {before:?} by default"), before.is_ok_and(|v| v != zero));
    t.is(format!("{what}: zero"), done(set(zero)), ARGUMENT);
    t.is(format!("{what} stays"), get().map_err(code), before);
    for (value, exact) in values {
        t.is(format!("{what}: {value:?}"), done(set(*value)), Ok(()));
        let found = get().map_err(code);
        t.yes(
            format!("{what}: {value:?}, found {found:?}"),
            found.is_ok_and(|f| f != zero && (f == *value || !exact)),
        );
    }
}

fn udp(t: &mut Cases, net: &Network) {
    let socket = || create_udp_socket(IpAddressFamily::Ipv4).expect("a socket");
    let bound = |port| {
        let s = socket();
        s.start_bind(net, v4(LOOPBACK, port)).and_then(|()| s.finish_bind()).map(|()| s)
    };
    let a = socket();
    t.is("family", a.address_family(), IpAddressFamily::Ipv4);
    t.is("udp: no addresses", (done(a.local_address()), done(a.remote_address())), (STATE, STATE));
    t.is(
        "udp: no streams before it is bound",
        (done(a.stream(None)), done(a.stream(Some(v4(LOOPBACK, 9))))),
        (STATE, STATE),
    );
    t.is("udp: nothing to finish", done(a.finish_bind()), NOT_IN_PROGRESS);
    for (what, at) in wrong().into_iter().filter(|(what, _)| what.starts_with('.')) {
        t.is(
            format!("udp: bind to {what}"),
            done(a.start_bind(net, at).and_then(|()| a.finish_bind())),
            ARGUMENT,
        );
    }
    t.is(
        "udp: bind to another's",
        done(a.start_bind(net, v4([192, 0, 2, 1], 0)).and_then(|()| a.finish_bind())),
        Err("address-not-bindable"),
    );
    t.is("udp: and then to its own", done(a.start_bind(net, v4(LOOPBACK, 0))), Ok(()));
    t.is("udp: bind while it binds", done(a.start_bind(net, v4(LOOPBACK, 0))), Err("concurrency-conflict"));
    t.is("udp: bound", (done(a.finish_bind()), done(a.finish_bind())), (Ok(()), NOT_IN_PROGRESS));
    t.is("udp: bound once", done(a.start_bind(net, v4(LOOPBACK, 0))), STATE);
    let at = address(a.local_address().expect("bound"));
    t.is("udp: its address", (at.ip(), at.port() != 0), (Ipv4Addr::LOCALHOST.into(), true));
    t.is("udp: no other's", done(a.remote_address()), STATE);
    t.is("udp: in use", bound(at.port()).err().map(code), Some("address-in-use"));
    options(
        t,
        "udp: hops",
        |v| a.set_unicast_hop_limit(v),
        || a.unicast_hop_limit(),
        0,
        &[(1, true), (42, true), (255, true)],
    );
    options(
        t,
        "udp: to receive",
        |v| a.set_receive_buffer_size(v),
        || a.receive_buffer_size(),
        0,
        &[(1, false), (10_000, false), (u64::MAX, false)],
    );
    options(
        t,
        "udp: to send",
        |v| a.set_send_buffer_size(v),
        || a.send_buffer_size(),
        0,
        &[(1, false), (100_000, false), (u64::MAX, false)],
    );
    for (what, to) in wrong() {
        t.is(format!("udp: streams to {what}"), done(a.stream(Some(to))), ARGUMENT);
    }
    let (b, c) = (bound(0).expect("bound"), bound(0).expect("bound"));
    let to = |s: &UdpSocket| s.local_address().expect("bound");
    let send = |out: &OutgoingDatagramStream, text: &str, to: Option<IpSocketAddress>| {
        out.subscribe().block();
        if out.check_send().map_err(code)? == 0 {
            return Err("nothing is permitted");
        }
        out.send(&[OutgoingDatagram { data: text.into(), remote_address: to }]).map_err(code)
    };
    let receive = |from: &IncomingDatagramStream| {
        from.subscribe().block();
        let got = from.receive(10).map_err(code)?;
        Ok::<_, &str>(got.into_iter().map(|d| (text(d.data), address(d.remote_address))).collect::<Vec<_>>())
    };
    let (from_a, out_a) = a.stream(None).expect("streams");
    let (from_b, out_b) = b.stream(None).expect("streams");
    t.is("udp: nothing is there", from_b.receive(10).map(|d| d.len()).map_err(code), Ok(0));
    t.is("udp: not ready", ready(&[&from_b.subscribe()]), vec![]);
    t.is("udp: nobody to send to", send(&out_a, "x", None), Err("invalid-argument"));
    for (what, to) in wrong() {
        t.is(format!("udp: send to {what}"), send(&out_a, "x", Some(to)), Err("invalid-argument"));
    }
    t.is("udp: none of them", (out_a.check_send().is_ok(), out_a.send(&[]).map_err(code)), (true, Ok(0)));
    t.is("udp: too large", send(&out_a, &"x".repeat(65_508), Some(to(&b))), Err("datagram-too-large"));
    t.is("udp: send", send(&out_a, "hello", Some(to(&b))), Ok(1));
    from_b.subscribe().block();
    t.is("udp: receive none", from_b.receive(0).map(|d| d.len()).map_err(code), Ok(0));
    t.is("udp: receive", receive(&from_b), Ok(vec![("hello".into(), at)]));
    t.is(
        "udp: an empty one",
        (send(&out_a, "", Some(to(&b))), receive(&from_b)),
        (Ok(1), Ok(vec![(String::new(), at)])),
    );
    t.is(
        "udp: answer",
        (send(&out_b, "there", Some(to(&a))), receive(&from_a)),
        (Ok(1), Ok(vec![("there".into(), address(to(&b)))])),
    );
    drop((from_a, out_a));

    let (from_a, out_a) = a.stream(Some(to(&b))).expect("streams");
    t.is("udp: the other's address", a.remote_address().map(address).map_err(code), Ok(address(to(&b))));
    let (_from_c, out_c) = c.stream(None).expect("streams");
    t.is("udp: a stranger", send(&out_c, "stranger", Some(to(&a))), Ok(1));
    t.is(
        "udp: send to whom it is for",
        (send(&out_a, "1", None), send(&out_a, "2", Some(to(&b)))),
        (Ok(1), Ok(1)),
    );
    t.is("udp: send to another", send(&out_a, "3", Some(to(&c))), Err("invalid-argument"));
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(receive(&from_b).expect("received"));
    }
    t.is("udp: both", got, vec![("1".into(), at), ("2".into(), at)]);
    t.is(
        "udp: who is heard",
        (send(&out_b, "friend", Some(to(&a))), receive(&from_a)),
        (Ok(1), Ok(vec![("friend".into(), address(to(&b)))])),
    );
    drop((from_a, out_a));
    t.is("udp: to nobody again", (done(a.stream(None)), done(a.remote_address())), (Ok(()), STATE));
}

fn tcp(t: &mut Cases, net: &Network) {
    let socket = || create_tcp_socket(IpAddressFamily::Ipv4).expect("a socket");
    let bind = |s: &TcpSocket, at| s.start_bind(net, at).and_then(|()| s.finish_bind());
    let a = socket();
    t.is("tcp: family", (a.address_family(), a.is_listening()), (IpAddressFamily::Ipv4, false));
    t.is("tcp: no addresses", (done(a.local_address()), done(a.remote_address())), (STATE, STATE));
    t.is(
        "tcp: nothing to finish",
        (done(a.finish_bind()), done(a.finish_connect()), done(a.finish_listen())),
        (NOT_IN_PROGRESS, NOT_IN_PROGRESS, NOT_IN_PROGRESS),
    );
    t.is(
        "tcp: not bound",
        (done(a.start_listen()), done(a.accept()), done(a.shutdown(ShutdownType::Both))),
        (STATE, STATE, STATE),
    );
    for (what, at) in wrong().into_iter().filter(|(what, _)| what.starts_with('.')) {
        t.is(format!("tcp: bind to {what}"), done(bind(&a, at)), ARGUMENT);
    }
    for many in [[224, 0, 0, 1], [255; 4]] {
        t.is(format!("tcp: bind to {many:?}"), done(bind(&a, v4(many, 0))), ARGUMENT);
        t.is(format!("tcp: connect to {many:?}"), done(socket().start_connect(net, v4(many, 80))), ARGUMENT);
    }
    t.is("tcp: bind to another's", done(bind(&a, v4([192, 0, 2, 1], 0))), Err("address-not-bindable"));
    t.is("tcp: and then to its own", done(a.start_bind(net, v4(LOOPBACK, 0))), Ok(()));
    t.is(
        "tcp: while it binds",
        (done(a.start_bind(net, v4(LOOPBACK, 0))), done(a.start_listen())),
        (Err("concurrency-conflict"), Err("concurrency-conflict")),
    );
    t.is("tcp: bound", (done(a.finish_bind()), done(a.finish_bind())), (Ok(()), NOT_IN_PROGRESS));
    t.is("tcp: bound once", done(bind(&a, v4(LOOPBACK, 0))), STATE);
    let at = a.local_address().expect("bound");
    t.is("tcp: its address", (address(at).ip(), address(at).port() != 0), (Ipv4Addr::LOCALHOST.into(), true));

    options(
        t,
        "tcp: hops",
        |v| a.set_hop_limit(v),
        || a.hop_limit(),
        0,
        &[(1, true), (255, true), (42, true)],
    );
    options(
        t,
        "tcp: to receive",
        |v| a.set_receive_buffer_size(v),
        || a.receive_buffer_size(),
        0,
        &[(1, false), (u64::MAX, false), (65_536, false)],
    );
    options(
        t,
        "tcp: to send",
        |v| a.set_send_buffer_size(v),
        || a.send_buffer_size(),
        0,
        &[(1, false), (u64::MAX, false), (65_536, false)],
    );
    options(
        t,
        "tcp: idle",
        |v| a.set_keep_alive_idle_time(v),
        || a.keep_alive_idle_time(),
        0,
        &[(1, false), (u64::MAX, false), (42_000 * MS, true)],
    );
    options(
        t,
        "tcp: interval",
        |v| a.set_keep_alive_interval(v),
        || a.keep_alive_interval(),
        0,
        &[(1, false), (u64::MAX, false), (43_000 * MS, true)],
    );
    options(
        t,
        "tcp: count",
        |v| a.set_keep_alive_count(v),
        || a.keep_alive_count(),
        0,
        &[(1, false), (u32::MAX, false), (9, true)],
    );
    t.is(
        "tcp: keep alive",
        (a.keep_alive_enabled().ok(), done(a.set_keep_alive_enabled(true)), a.keep_alive_enabled().ok()),
        (Some(false), Ok(()), Some(true)),
    );
    t.is(
        "tcp: backlog",
        (
            done(a.set_listen_backlog_size(0)),
            done(a.set_listen_backlog_size(1)),
            done(a.set_listen_backlog_size(u64::MAX)),
        ),
        (ARGUMENT, Ok(()), Ok(())),
    );

    t.is(
        "tcp: listen",
        (done(a.start_listen()), done(a.finish_listen()), a.is_listening()),
        (Ok(()), Ok(()), true),
    );
    t.is("tcp: listens once", (done(a.start_listen()), done(a.finish_listen())), (STATE, NOT_IN_PROGRESS));
    t.is(
        "tcp: does nothing else",
        (
            done(a.start_connect(net, at)),
            done(a.start_bind(net, at)),
            done(a.shutdown(ShutdownType::Both)),
            done(a.remote_address()),
        ),
        (STATE, STATE, STATE, STATE),
    );
    t.is("tcp: nobody", (done(a.accept()), ready(&[&a.subscribe()])), (Err("would-block"), vec![]));
    t.is("tcp: in use", done(bind(&socket(), at)), Err("address-in-use"));

    let b = socket();
    for (what, to) in wrong() {
        t.is(format!("tcp: connect to {what}"), done(b.start_connect(net, to)), ARGUMENT);
    }
    t.is("tcp: connect", done(b.start_connect(net, at)), Ok(()));
    let again = done(b.start_connect(net, at));
    t.yes(
        format!("tcp: connect while it connects: {again:?}"),
        again == STATE || again == Err("concurrency-conflict"),
    );
    let connected = b.subscribe();
    let (from_b, to_b) = loop {
        match b.finish_connect() {
            Err(ErrorCode::WouldBlock) => connected.block(),
            other => break other.expect("connected"),
        }
    };
    t.is(
        "tcp: connected once",
        (
            done(b.finish_connect()),
            done(b.start_connect(net, at)),
            done(b.start_listen()),
            done(b.accept()),
            done(b.start_bind(net, v4(LOOPBACK, 0))),
        ),
        (NOT_IN_PROGRESS, STATE, STATE, STATE, STATE),
    );
    t.is("tcp: no backlog", done(b.set_listen_backlog_size(5)), STATE);
    a.subscribe().block();
    let (c, from_c, to_c) = a.accept().expect("somebody");
    t.is(
        "tcp: both ends",
        (c.local_address().map(address).ok(), c.remote_address().map(address).ok()),
        (b.remote_address().map(address).ok(), b.local_address().map(address).ok()),
    );
    t.is("tcp: which they are", c.local_address().map(address).ok(), Some(address(at)));
    t.is(
        "tcp: options of who listens",
        (
            c.keep_alive_enabled().ok(),
            c.keep_alive_idle_time().ok(),
            c.keep_alive_interval().ok(),
            c.keep_alive_count().ok(),
            c.hop_limit().ok(),
        ),
        (Some(true), Some(42_000 * MS), Some(43_000 * MS), Some(9), Some(42)),
    );
    t.is("tcp: nobody else", done(a.accept()), Err("would-block"));
    t.is(
        "tcp: nothing is said",
        (read(&from_c, 10), ready(&[&from_c.subscribe()])),
        (Ok(String::new()), vec![]),
    );
    t.is("tcp: say something", said(to_b.blocking_write_and_flush(b"hello")), Ok(()));
    t.is(
        "tcp: hear it",
        (blocking_read(&from_c, 4), blocking_read(&from_c, 4)),
        (Ok("hell".into()), Ok("o".into())),
    );
    t.is(
        "tcp: answer",
        (said(to_c.blocking_write_and_flush(b"there")), blocking_read(&from_b, 100)),
        (Ok(()), Ok("there".into())),
    );
    // Halves.
    for _ in 0..2 {
        t.is("tcp: say no more", done(b.shutdown(ShutdownType::Send)), Ok(()));
        t.is("tcp: its stream is closed", said(to_b.check_write()), Err("closed".into()));
    }
    t.is("tcp: the end is heard", blocking_read(&from_c, 1), Err("closed".into()));
    t.is(
        "tcp: the other half is open",
        (said(to_c.blocking_write_and_flush(b"bye")), blocking_read(&from_b, 100)),
        (Ok(()), Ok("bye".into())),
    );
    for _ in 0..2 {
        t.is("tcp: hear no more", done(b.shutdown(ShutdownType::Receive)), Ok(()));
        t.is(
            "tcp: its other stream is closed",
            (read(&from_b, 1), read(&from_b, 0)),
            (Err("closed".into()), Err("closed".into())),
        );
    }
    t.is("tcp: both", done(c.shutdown(ShutdownType::Both)), Ok(()));
    t.is(
        "tcp: both are closed",
        (read(&from_c, 1), said(to_c.check_write())),
        (Err("closed".into()), Err("closed".into())),
    );

    // Nobody there.
    drop(a);
    let d = socket();
    let refused = d.start_connect(net, at).and_then(|()| {
        loop {
            match d.finish_connect() {
                Err(ErrorCode::WouldBlock) => d.subscribe().block(),
                other => break other,
            }
        }
    });
    t.is("tcp: refused", done(refused), Err("connection-refused"));
    t.yes(
        "tcp: is closed then",
        d.start_connect(net, at).is_err() && d.start_listen().is_err() && d.remote_address().is_err(),
    );

    // Its address can be had again at once.
    let e = socket();
    t.is("tcp: after another", (done(bind(&e, at)), done(e.start_listen())), (Ok(()), Ok(())));
    let six = create_tcp_socket(IpAddressFamily::Ipv6).expect("a socket");
    t.is("tcp: IPv6", six.address_family(), IpAddressFamily::Ipv6);
    for (what, at) in [
        ("IPv4", v4(LOOPBACK, 80)),
        ("IPv4 in IPv6's form", v6("::ffff:127.0.0.1", 80)),
        ("many", v6("ff02::1", 80)),
    ] {
        t.is(format!("tcp: IPv6, bind to {what}"), done(bind(&six, at)), ARGUMENT);
        t.is(format!("tcp: IPv6, connect to {what}"), done(six.start_connect(net, at)), ARGUMENT);
    }
    t.is(
        "tcp: IPv6, connect to none",
        (done(six.start_connect(net, v6("::", 80))), done(six.start_connect(net, v6("::1", 0)))),
        (ARGUMENT, ARGUMENT),
    );
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    let mut t = Cases::default();
    match args[1].as_str() {
        "clocks" => clocks(&mut t),
        "streams" => streams(&mut t, &args[2]),
        "full" => full(&mut t),
        "broken" => broken(&mut t, &args[2]),
        "files" => files(&mut t),
        "sockets" => {
            let net = instance_network();
            udp(&mut t, &net);
            tcp(&mut t, &net);
        }
        // This ends the guest.
        "no pollable" => drop(poll(&[])),
        other => panic!("{other}: what is that?"),
    }
    t.end();
}

// SPDX-License-Identifier: Apache-2.0

//! WASI 0.3 as its documentation has it: clocks, files and sockets.

use crate::cases::Cases;
use futures::{future::join_all, join};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use wasip3::cli::environment::get_environment;
use wasip3::cli::{stdin, stdout, terminal_stdin, terminal_stdout};
use wasip3::clocks::{monotonic_clock as monotonic, system_clock};
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, DescriptorType, ErrorCode as FileError, NewTimestamp, OpenFlags,
    PathFlags,
};
use wasip3::random::{insecure, insecure_seed, random};
use wasip3::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_stream;

const MS: u64 = 1_000_000;

pub async fn clocks(t: &mut Cases) {
    t.yes("resolution", monotonic::get_resolution() > 0 && system_clock::get_resolution() > 0);
    t.goes_on(monotonic::now);
    let wall = system_clock::now();
    let host: i64 = get_environment()
        .into_iter()
        .find(|(n, _)| n == "NOW")
        .expect("the time")
        .1
        .parse()
        .expect("a number");
    t.yes("the time of day is the host's", wall.seconds.abs_diff(host / 1_000_000_000) < 600);
    t.yes("nanoseconds are a part of a second", wall.nanoseconds < 1_000_000_000);

    monotonic::wait_for(0).await;
    for when in [0, 1, monotonic::now()] {
        monotonic::wait_until(when).await;
    }
    let begun = monotonic::now();
    monotonic::wait_for(5 * MS).await;
    t.yes("it waits", monotonic::now() - begun >= 5 * MS);
    let until = monotonic::now() + 5 * MS;
    monotonic::wait_until(until).await;
    t.yes("it waits until then", monotonic::now() >= until);
    // All at once: one after the other would be long.
    let begun = monotonic::now();
    join_all((0..100).map(|_| monotonic::wait_for(100 * MS))).await;
    t.yes("they wait together", (100 * MS..5000 * MS).contains(&(monotonic::now() - begun)));

    let (a, b) = (random::get_random_bytes(64), random::get_random_bytes(64));
    t.yes("random bytes", a.len() <= 64 && !a.is_empty() && a != b);
    t.yes("random numbers", random::get_random_u64() != random::get_random_u64());
    t.is("no random bytes", random::get_random_bytes(0).len(), 0);
    t.yes("insecure bytes", !insecure::get_insecure_random_bytes(100).is_empty());
    t.yes("insecure numbers", insecure::get_insecure_random_u64() != insecure::get_insecure_random_u64());
    let _ = insecure_seed::get_insecure_seed();
}

async fn print(text: &str) -> Result<(), String> {
    let (mut to, data) = wit_stream::new();
    let result = stdout::write_via_stream(data);
    let written = async {
        to.write_all(text.into()).await;
        drop(to);
    };
    let (result, ()) = join!(async { result.await }, written);
    result.map_err(|e| format!("{e:?}").trim_start_matches("ErrorCode::").to_string())
}

/// The standard streams, which are what the argument says. Standard error is for us.
pub async fn streams(t: &mut Cases, kind: &str) {
    let is_terminal =
        (terminal_stdin::get_terminal_stdin().is_some(), terminal_stdout::get_terminal_stdout().is_some());
    t.is("a terminal", is_terminal, (kind == "terminal", kind == "terminal"));
    if kind == "broken" {
        t.is("what nobody reads", print("x").await, Err("Pipe".into()));
        let (mut data, result) = stdin::read_via_stream();
        t.is("what cannot be read", (data.next().await, result.await.is_err()), (None, true));
        return;
    }
    t.is("write", print("go\n").await, Ok(()));
    let (mut data, result) = stdin::read_via_stream();
    let mut text = Vec::new();
    let mut ended = false;
    // A terminal has no end. After an end nothing is read.
    while !ended && !(kind == "terminal" && text.ends_with(b"\n")) {
        match data.next().await {
            Some(byte) => text.push(byte),
            None => ended = true,
        }
    }
    let want = if kind == "null" { "" } else { "input\n" };
    t.is("read", String::from_utf8_lossy(&text).to_string(), want.to_string());
    if ended {
        t.is("the end is no error", result.await.is_ok(), true);
    }
    t.is("write nothing", print("").await, Ok(()));
    t.is("write much", print(&".".repeat(100_000)).await, Ok(()));
    t.is("a line's end", print("\n").await, Ok(()));
}

/// An error by its name.
fn named<T>(result: Result<T, FileError>) -> Result<T, String> {
    result.map_err(|e| format!("{e:?}").trim_start_matches("ErrorCode::").to_string())
}

async fn read(file: &Descriptor, at: u64) -> (String, Result<(), String>) {
    let (data, result) = file.read_via_stream(at);
    (String::from_utf8_lossy(&data.collect().await).into(), named(result.await))
}

/// Writes at an offset, or to the end.
async fn write(file: &Descriptor, text: &str, at: Option<u64>) -> Result<(), String> {
    let (mut to, data) = wit_stream::new();
    let result = match at {
        Some(at) => file.write_via_stream(data, at),
        None => file.append_via_stream(data),
    };
    let written = async {
        to.write_all(text.into()).await;
        drop(to);
    };
    let (result, ()) = join!(async { result.await }, written);
    named(result)
}

async fn list(dir: &Descriptor) -> (Vec<(String, String)>, Result<(), String>) {
    let (entries, result) = dir.read_directory();
    let mut all: Vec<_> = entries.collect().await.into_iter().map(|e| (e.name, kind(&e.type_))).collect();
    all.sort();
    (all, named(result.await))
}

fn kind(t: &DescriptorType) -> String {
    format!("{t:?}").trim_start_matches("DescriptorType::").to_string()
}

const NONE: PathFlags = PathFlags::empty();
const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;

fn bad<T>() -> Result<T, String> {
    Err("BadDescriptor".into())
}

pub async fn files(t: &mut Cases) {
    let d = preopens::get_directories().into_iter().find(|(_, n)| n == "/d").expect("given").0;
    let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let open = async |path: &str, flags, how| named(d.open_at(NONE, path.into(), flags, how).await);
    let file = open("file", OpenFlags::CREATE, both).await.expect("made");
    t.is("an empty file", read(&file, 0).await, (String::new(), Ok(())));
    t.is("write", write(&file, "0123456789", Some(0)).await, Ok(()));
    t.is("write over the end", write(&file, "ab", Some(9)).await, Ok(()));
    t.is("append", write(&file, "cd", None).await, Ok(()));
    t.is("write beyond the end", write(&file, "z", Some(15)).await, Ok(()));
    t.is("write nothing", write(&file, "", Some(100)).await, Ok(()));
    t.is("read", read(&file, 7).await, ("78abcd\0\0z".into(), Ok(())));
    t.is("read at the end", read(&file, 16).await, (String::new(), Ok(())));
    t.is("read beyond the end", read(&file, 1000).await, (String::new(), Ok(())));
    t.is(
        "several read at once",
        join!(read(&file, 9), read(&file, 13)),
        (("abcd\0\0z".into(), Ok(())), ("\0\0z".into(), Ok(()))),
    );
    let large = "l".repeat(1 << 20);
    t.is("write much", write(&file, &large, Some(0)).await, Ok(()));
    t.yes("read much", read(&file, 0).await == (large, Ok(())));
    t.is(
        "smaller",
        (named(file.set_size(4).await), named(file.stat().await).map(|s| s.size)),
        (Ok(()), Ok(4)),
    );
    t.is("larger", (named(file.set_size(6).await), read(&file, 0).await.0), (Ok(()), "llll\0\0".into()));
    t.is("a size that is none", named(file.set_size(u64::MAX).await).is_err(), true);
    t.is("sync", (named(file.sync().await), named(file.sync_data().await)), (Ok(()), Ok(())));
    for advice in [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::WillNeed,
        Advice::DontNeed,
        Advice::NoReuse,
    ] {
        t.is("advice", named(file.advise(0, 4, advice).await), Ok(()));
    }
    let stat = file.stat().await.expect("a file");
    t.is(
        "what it is",
        (kind(&stat.type_), stat.link_count, named(file.get_type().await).map(|k| kind(&k))),
        ("RegularFile".into(), 1, Ok("RegularFile".into())),
    );

    let at = |seconds, nanoseconds| NewTimestamp::Timestamp(system_clock::Instant { seconds, nanoseconds });
    let times = async |path| {
        let stat = d.stat_at(NONE, String::from(path)).await.expect("a file");
        let of = |t: Option<system_clock::Instant>| t.map(|t| (t.seconds, t.nanoseconds));
        (of(stat.data_access_timestamp), of(stat.data_modification_timestamp))
    };
    t.is("set times", named(file.set_times(at(1, 2), at(3, 4)).await), Ok(()));
    t.is("times", times("file").await, (Some((1, 2)), Some((3, 4))));
    t.is(
        "set one time",
        named(d.set_times_at(NONE, "file".into(), NewTimestamp::NoChange, at(5, 6)).await),
        Ok(()),
    );
    t.is("one time", times("file").await, (Some((1, 2)), Some((5, 6))));
    t.is(
        "set them before 1970",
        named(d.set_times_at(NONE, "file".into(), at(-10, 7), at(-1, 999_999_999)).await),
        Ok(()),
    );
    t.is("times before 1970", times("file").await, (Some((-10, 7)), Some((-1, 999_999_999))));
    for nanoseconds in [1_000_000_000, (1 << 30) - 1, (1 << 30) - 2, u32::MAX] {
        let set = d.set_times_at(NONE, "file".into(), at(0, nanoseconds), NewTimestamp::NoChange).await;
        t.is(format!("{nanoseconds} nanoseconds"), named(set), Err("Invalid".into()));
    }
    t.is("set to now", named(file.set_times(NewTimestamp::Now, NewTimestamp::Now).await), Ok(()));
    let now = system_clock::now().seconds;
    let is_now = |t: Option<(i64, u32)>| t.is_some_and(|(s, _)| s.abs_diff(now) < 60);
    let (a, m) = times("file").await;
    t.yes("it is now", is_now(a) && is_now(m));

    let (reader, writer) = (
        open("file", OpenFlags::empty(), DescriptorFlags::READ).await.expect("opened"),
        open("file", OpenFlags::empty(), DescriptorFlags::WRITE).await.expect("opened"),
    );
    t.is(
        "flags",
        (named(reader.get_flags().await), named(writer.get_flags().await)),
        (Ok(DescriptorFlags::READ), Ok(DescriptorFlags::WRITE)),
    );
    t.is(
        "write by a reader",
        (write(&reader, "x", Some(0)).await, write(&reader, "x", None).await),
        (bad(), bad()),
    );
    t.is("read by a writer", read(&writer, 0).await, (String::new(), bad()));
    let other = open("other", OpenFlags::CREATE, both).await.expect("made");
    t.is(
        "the same",
        (reader.is_same_object(&writer).await, reader.is_same_object(&other).await),
        (true, false),
    );
    let hash = async |f: &Descriptor| named(f.metadata_hash().await).map(|h| (h.lower, h.upper));
    t.is("its hash", hash(&reader).await, hash(&writer).await);
    t.yes("another's", hash(&reader).await != hash(&other).await);
    t.is(
        "its hash by its path",
        named(d.metadata_hash_at(NONE, "file".into()).await).map(|h| (h.lower, h.upper)),
        hash(&reader).await,
    );

    t.is("make a directory", named(d.create_directory_at("list".into()).await), Ok(()));
    t.is("and again", named(d.create_directory_at("list".into()).await), Err("Exist".into()));
    let dir = open("list", OpenFlags::DIRECTORY, DescriptorFlags::READ | DescriptorFlags::MUTATE_DIRECTORY)
        .await
        .expect("opened");
    t.is("it is empty", list(&dir).await, (vec![], Ok(())));
    dir.create_directory_at("dir".into()).await.expect("made");
    dir.symlink_at("nothing".into(), "link".into()).await.expect("linked");
    dir.open_at(NONE, "reg".into(), OpenFlags::CREATE, both).await.expect("made");
    let want = [("dir", "Directory"), ("link", "SymbolicLink"), ("reg", "RegularFile")]
        .map(|(n, k)| (n.to_string(), k.to_string()))
        .to_vec();
    t.is("a directory", list(&dir).await, (want.clone(), Ok(())));
    t.is("several at once", join!(list(&dir), list(&dir)), ((want.clone(), Ok(())), (want, Ok(()))));
    t.is("list a file", list(&file).await, (vec![], Err("NotDirectory".into())));
    t.is(
        "write a directory",
        (write(&dir, "x", Some(0)).await.is_err(), named(dir.set_size(0).await).is_err()),
        (true, true),
    );

    // Each change, and each error that is one of its own.
    type Case<'a> = (&'a str, Result<(), String>, Result<(), &'a str>);
    let cases: Vec<Case> = vec![
        ("mkdir above", named(d.create_directory_at("../x".into()).await), Err("NotPermitted")),
        ("mkdir of nothing", named(d.create_directory_at(String::new()).await), Err("NoEntry")),
        ("rmdir of a full one", named(d.remove_directory_at("list".into()).await), Err("NotEmpty")),
        ("rmdir of a file", named(d.remove_directory_at("file".into()).await), Err("NotDirectory")),
        ("rmdir", named(dir.remove_directory_at("dir/".into()).await), Ok(())),
        ("unlink of a directory", named(d.unlink_file_at("list".into()).await), Err("IsDirectory")),
        ("unlink of a file with a slash", named(d.unlink_file_at("file/".into()).await), Err("NotDirectory")),
        ("unlink of nothing", named(d.unlink_file_at("none".into()).await), Err("NoEntry")),
        ("symlink that is absolute", named(d.symlink_at("/x".into(), "l".into()).await), Err("NotPermitted")),
        ("symlink", named(d.symlink_at("file".into(), "l".into()).await), Ok(())),
        ("symlink again", named(d.symlink_at("file".into(), "l".into()).await), Err("Exist")),
        ("link", named(d.link_at(NONE, "file".into(), &d, "h".into()).await), Ok(())),
        ("link again", named(d.link_at(NONE, "file".into(), &d, "h".into()).await), Err("Exist")),
        (
            "link of a directory",
            named(d.link_at(NONE, "list".into(), &d, "h2".into()).await),
            Err("NotPermitted"),
        ),
        ("link of nothing", named(d.link_at(NONE, "none".into(), &d, "h2".into()).await), Err("NoEntry")),
        ("link by a link", named(d.link_at(FOLLOW, "l".into(), &d, "h2".into()).await), Err("Invalid")),
        ("rename", named(d.rename_at("h".into(), &d, "h3".into()).await), Ok(())),
        ("rename of nothing", named(d.rename_at("h".into(), &d, "h4".into()).await), Err("NoEntry")),
        (
            "rename over a directory",
            named(d.rename_at("h3".into(), &d, "list".into()).await),
            Err("IsDirectory"),
        ),
        (
            "rename of a directory over a file",
            named(d.rename_at("list".into(), &d, "h3".into()).await),
            Err("NotDirectory"),
        ),
        ("rename into itself", named(d.rename_at("list".into(), &d, "list/x".into()).await), Err("Invalid")),
        ("open nothing", open("none", OpenFlags::empty(), both).await.map(|_| ()), Err("NoEntry")),
        (
            "open exclusively",
            open("file", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, both).await.map(|_| ()),
            Err("Exist"),
        ),
        (
            "open a file as a directory",
            open("file", OpenFlags::DIRECTORY, DescriptorFlags::READ).await.map(|_| ()),
            Err("NotDirectory"),
        ),
        (
            "open a directory to write",
            open("list", OpenFlags::empty(), both).await.map(|_| ()),
            Err("IsDirectory"),
        ),
        ("open a link", open("l", OpenFlags::empty(), both).await.map(|_| ()), Err("Loop")),
        (
            "open above",
            open("../out", OpenFlags::empty(), DescriptorFlags::READ).await.map(|_| ()),
            Err("NotPermitted"),
        ),
        (
            "open the root",
            open("/", OpenFlags::empty(), DescriptorFlags::READ).await.map(|_| ()),
            Err("NotPermitted"),
        ),
        (
            "open below a file",
            open("file/x", OpenFlags::empty(), DescriptorFlags::READ).await.map(|_| ()),
            Err("NotDirectory"),
        ),
        ("truncate", open("h3", OpenFlags::TRUNCATE, DescriptorFlags::WRITE).await.map(|_| ()), Ok(())),
    ];
    for (what, found, want) in cases {
        t.is(what, found, want.map_err(String::from));
    }
    t.is(
        "by a link",
        named(d.stat_at(FOLLOW, "l".into()).await).map(|s| (kind(&s.type_), s.size, s.link_count)),
        Ok(("RegularFile".into(), 0, 2)),
    );
    t.is(
        "a link",
        named(d.stat_at(NONE, "l".into()).await).map(|s| (kind(&s.type_), s.size)),
        Ok(("SymbolicLink".into(), 4)),
    );
    t.is(
        "its text",
        (named(d.readlink_at("l".into()).await), named(d.readlink_at("file".into()).await)),
        (Ok("file".into()), Err("Invalid".into())),
    );
}

include!("../../addresses.rs");

/// Without what cannot be compared, and with an error's name.
fn done<T>(result: Result<T, ErrorCode>) -> Result<(), String> {
    result.map(|_| ()).map_err(code)
}

fn code(e: ErrorCode) -> String {
    format!("{e:?}").trim_start_matches("ErrorCode::").to_string()
}

fn state() -> Result<(), String> {
    Err("InvalidState".into())
}

fn argument() -> Result<(), String> {
    Err("InvalidArgument".into())
}

fn error(e: &str) -> Result<(), String> {
    Err(e.into())
}

pub async fn udp(t: &mut Cases) {
    let socket = || UdpSocket::create(IpAddressFamily::Ipv4).expect("a socket");
    let a = socket();
    t.is(
        "udp: no addresses",
        (done(a.get_local_address()), done(a.get_remote_address())),
        (state(), state()),
    );
    t.is("udp: nobody to leave", done(a.disconnect()), state());
    t.is("udp: nothing to receive before it is bound", done(a.receive().await), state());
    for (what, at) in wrong().into_iter().filter(|(what, _)| what.starts_with('.')) {
        t.is(format!("udp: bind to {what}"), done(a.bind(at)), argument());
    }
    t.is("udp: bind to another's", done(a.bind(v4([192, 0, 2, 1], 0))), error("AddressNotBindable"));
    t.is("udp: bind", (done(a.bind(v4(LOOPBACK, 0))), done(a.bind(v4(LOOPBACK, 0)))), (Ok(()), state()));
    let at = a.get_local_address().expect("bound");
    t.is("udp: in use", done(socket().bind(at)), error("AddressInUse"));
    t.is(
        "udp: hops",
        (done(a.set_unicast_hop_limit(0)), done(a.set_unicast_hop_limit(42)), a.get_unicast_hop_limit().ok()),
        (argument(), Ok(()), Some(42)),
    );
    t.is(
        "udp: buffers",
        (
            done(a.set_receive_buffer_size(0)),
            done(a.set_send_buffer_size(0)),
            done(a.set_receive_buffer_size(u64::MAX)),
            done(a.set_send_buffer_size(1)),
        ),
        (argument(), argument(), Ok(()), Ok(())),
    );
    for (what, to) in wrong() {
        t.is(format!("udp: connect to {what}"), done(a.connect(to)), argument());
        t.is(format!("udp: send to {what}"), done(a.send(b"x".to_vec(), Some(to)).await), argument());
    }
    t.is("udp: nobody to send to", done(a.send(b"x".to_vec(), None).await), argument());
    t.is("udp: too large", done(a.send(vec![b'x'; 65_508], Some(at)).await), error("DatagramTooLarge"));
    // Bound by what is sent.
    let b = socket();
    t.is("udp: send", done(b.send(b"hello".to_vec(), Some(at)).await), Ok(()));
    t.is("udp: bound by that", done(b.get_local_address()), Ok(()));
    let received = a.receive().await.map(|(data, from)| (data, address(from).port())).map_err(code);
    t.is(
        "udp: receive",
        received,
        Ok((b"hello".to_vec(), address(b.get_local_address().expect("bound")).port())),
    );
    t.is(
        "udp: connect",
        (done(b.connect(at)), b.get_remote_address().map(address).map_err(code)),
        (Ok(()), Ok(address(at))),
    );
    let own = b.get_local_address().expect("bound");
    t.is(
        "udp: send to whom it is for",
        (done(b.send(b"1".to_vec(), None).await), done(b.send(b"2".to_vec(), Some(at)).await)),
        (Ok(()), Ok(())),
    );
    t.is("udp: send to another", done(b.send(b"3".to_vec(), Some(own)).await), argument());
    let (one, two) = (a.receive().await.map(|r| r.0).ok(), a.receive().await.map(|r| r.0).ok());
    t.is("udp: both", (one, two), (Some(b"1".to_vec()), Some(b"2".to_vec())));
    let (heard, sent) = join!(b.receive(), a.send(b"there".to_vec(), Some(own)));
    t.is("udp: answer", (heard.map(|r| r.0).ok(), done(sent)), (Some(b"there".to_vec()), Ok(())));
    t.is("udp: leave", (done(b.disconnect()), done(b.get_remote_address())), (Ok(()), state()));
}

pub async fn tcp(t: &mut Cases) {
    let socket = || TcpSocket::create(IpAddressFamily::Ipv4).expect("a socket");
    let a = socket();
    t.is(
        "tcp: no addresses",
        (done(a.get_local_address()), done(a.get_remote_address()), a.get_is_listening()),
        (state(), state(), false),
    );
    let (data, result) = a.receive();
    t.is("tcp: not connected", (data.collect().await, done(result.await)), (vec![], state()));
    let (_, data) = wit_stream::new();
    t.is("tcp: not connected to send", done(a.send(data).await), state());
    for (what, at) in wrong().into_iter().filter(|(what, _)| what.starts_with('.')) {
        t.is(format!("tcp: bind to {what}"), done(a.bind(at)), argument());
    }
    for (what, to) in wrong() {
        t.is(format!("tcp: connect to {what}"), done(socket().connect(to).await), argument());
    }
    t.is(
        "tcp: bind to many",
        (done(a.bind(v4([224, 0, 0, 1], 0))), done(a.bind(v4([255; 4], 0)))),
        (argument(), argument()),
    );
    t.is(
        "tcp: connect to many",
        (
            done(socket().connect(v4([224, 0, 0, 1], 80)).await),
            done(socket().connect(v4([255; 4], 80)).await),
        ),
        (argument(), argument()),
    );
    t.is("tcp: bind to another's", done(a.bind(v4([192, 0, 2, 1], 0))), error("AddressNotBindable"));
    t.is("tcp: bind", (done(a.bind(v4(LOOPBACK, 0))), done(a.bind(v4(LOOPBACK, 0)))), (Ok(()), state()));
    t.is(
        "tcp: zeros",
        (
            done(a.set_hop_limit(0)),
            done(a.set_listen_backlog_size(0)),
            done(a.set_keep_alive_count(0)),
            done(a.set_keep_alive_interval(0)),
            done(a.set_keep_alive_idle_time(0)),
            done(a.set_receive_buffer_size(0)),
            done(a.set_send_buffer_size(0)),
        ),
        (argument(), argument(), argument(), argument(), argument(), argument(), argument()),
    );
    t.is(
        "tcp: the largest",
        (
            done(a.set_hop_limit(255)),
            done(a.set_listen_backlog_size(u64::MAX)),
            done(a.set_keep_alive_count(u32::MAX)),
            done(a.set_keep_alive_interval(u64::MAX)),
            done(a.set_keep_alive_idle_time(u64::MAX)),
            done(a.set_receive_buffer_size(u64::MAX)),
            done(a.set_send_buffer_size(u64::MAX)),
        ),
        (Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(()), Ok(())),
    );
    t.is(
        "tcp: keep alive",
        (
            a.get_keep_alive_enabled().ok(),
            done(a.set_keep_alive_enabled(true)),
            a.get_keep_alive_enabled().ok(),
        ),
        (Some(false), Ok(()), Some(true)),
    );
    let mut guests = a.listen().expect("listens");
    let at = a.get_local_address().expect("bound");
    t.is(
        "tcp: listens once",
        (a.get_is_listening(), done(a.listen()), done(a.connect(at).await), done(a.bind(at))),
        (true, state(), state(), state()),
    );
    t.is("tcp: in use", done(socket().bind(at)), error("AddressInUse"));
    let b = socket();
    let (connected, c) = join!(b.connect(at), guests.next());
    let c = c.expect("somebody");
    t.is(
        "tcp: connect",
        (done(connected), done(b.connect(at).await), done(b.listen()), done(b.set_listen_backlog_size(5))),
        (Ok(()), state(), state(), state()),
    );
    t.is(
        "tcp: both ends",
        (c.get_local_address().map(address).ok(), c.get_remote_address().map(address).ok()),
        (Some(address(at)), b.get_local_address().map(address).ok()),
    );
    t.is(
        "tcp: options of who listens",
        (c.get_keep_alive_enabled().ok(), c.get_hop_limit().ok()),
        (Some(true), Some(255)),
    );
    let (mut to_c, data) = wit_stream::new();
    let sent = b.send(data);
    let (_, none) = wit_stream::new();
    t.is("tcp: send once", done(b.send(none).await), state());
    let (from_b, received) = c.receive();
    let (again, result) = c.receive();
    t.is("tcp: receive once", (again.collect().await, done(result.await)), (vec![], state()));
    let said = async {
        to_c.write_all(b"hello".to_vec()).await;
        drop(to_c);
    };
    let (heard, ()) = join!(from_b.collect(), said);
    t.is(
        "tcp: say and hear",
        (heard, done(sent.await), done(received.await)),
        (b"hello".to_vec(), Ok(()), Ok(())),
    );
    // The other half is open.
    let (mut to_b, data) = wit_stream::new();
    let sent = c.send(data);
    let (from_c, received) = b.receive();
    let said = async {
        to_b.write_all(b"bye".to_vec()).await;
        drop(to_b);
    };
    let (heard, ()) = join!(from_c.collect(), said);
    t.is("tcp: answer", (heard, done(sent.await), done(received.await)), (b"bye".to_vec(), Ok(()), Ok(())));
    drop((guests, a));
    let d = socket();
    t.is("tcp: refused", done(d.connect(at).await), error("ConnectionRefused"));
    t.yes("tcp: is closed then", d.connect(at).await.is_err() && d.listen().is_err());
    let e = socket();
    t.is(
        "tcp: listens without an address",
        (done(e.listen()), e.get_local_address().map(|a| address(a).port() != 0).ok()),
        (Ok(()), Some(true)),
    );
    let six = TcpSocket::create(IpAddressFamily::Ipv6).expect("a socket");
    t.is(
        "tcp: IPv6",
        (
            done(six.bind(v4(LOOPBACK, 0))),
            done(six.bind(v6("::ffff:127.0.0.1", 0))),
            done(six.bind(v6("ff02::1", 0))),
        ),
        (argument(), argument(), argument()),
    );
}

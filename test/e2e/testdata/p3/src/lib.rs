// SPDX-License-Identifier: Apache-2.0

//! A guest of WASI 0.3, which does several things at once.

use futures::join;
use wasip3::cli::{environment, exit, stdin, stdout};
use wasip3::clocks::monotonic_clock;
use wasip3::filesystem::preopens;
use wasip3::filesystem::types::{DescriptorFlags, OpenFlags, PathFlags};
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket};
use wasip3::{wit_future, wit_stream};

#[path = "../../cases.rs"]
mod cases;
mod wasi3;

struct Guest;

async fn say(text: String) {
    let (mut to, from) = wit_stream::new();
    let written = async {
        to.write_all(text.into_bytes()).await;
        drop(to);
    };
    let (done, ()) = join!(async { stdout::write_via_stream(from).await }, written);
    done.expect("written");
}

async fn after(milliseconds: u64) {
    monotonic_clock::wait_for(milliseconds * 1_000_000).await;
    say(format!("after {milliseconds}\n")).await;
}

async fn connect(name: &str, port: u16) -> Result<String, String> {
    let all = resolve_addresses(name.into()).await.map_err(|e| format!("lookup: {e:?}"))?;
    let address = all.iter().find_map(|a| match a {
        IpAddress::Ipv4(v4) => Some(*v4),
        IpAddress::Ipv6(_) => None,
    });
    let address = address.ok_or("no address")?;
    let socket = TcpSocket::create(IpAddressFamily::Ipv4).map_err(|e| format!("create: {e:?}"))?;
    let to = IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address });
    socket.connect(to).await.map_err(|e| format!("connect: {e:?}"))?;
    let (mut out, data) = wit_stream::new();
    let sent = socket.send(data);
    let (input, _received) = socket.receive();
    out.write_all(b"from the guest\n".to_vec()).await;
    drop(out);
    let _ = sent.await;
    let got = input.collect().await;
    Ok(String::from_utf8_lossy(&got).into())
}

async fn read(path: &str) -> String {
    let all = preopens::get_directories();
    let (root, _) = all.into_iter().find(|(_, name)| name == "/").expect("a root");
    let (flags, how) = (PathFlags::SYMLINK_FOLLOW, DescriptorFlags::READ);
    match root.open_at(flags, path.into(), OpenFlags::empty(), how).await {
        Ok(file) => {
            let (data, _) = file.read_via_stream(0);
            String::from_utf8_lossy(&data.collect().await).into()
        }
        Err(e) => format!("{e:?}"),
    }
}

/// As testdata/p2 does it.
async fn send(args: &[String]) -> Result<String, ErrorCode> {
    let (mut to, contents) = wit_stream::new();
    let (trailers, no_trailers) = wit_future::new(|| Ok(None));
    drop(trailers);
    let options = RequestOptions::new();
    if let Some(ms) = args.get(5) {
        options.set_first_byte_timeout(Some(ms.parse::<u64>().expect("a time") * 1_000_000)).expect("a time");
    }
    let (request, sent) = Request::new(Fields::new(), Some(contents), no_trailers, Some(options));
    request.set_method(if args[0] == "POST" { &Method::Post } else { &Method::Get }).expect("a method");
    request
        .set_scheme(Some(if args[1] == "https" { &Scheme::Https } else { &Scheme::Http }))
        .expect("a scheme");
    request.set_authority(Some(&args[2])).expect("an authority");
    request.set_path_with_query(Some(&args[3])).expect("a path");
    let size = args.get(4).map_or(0, |n| n.parse().expect("a size"));
    let written = async {
        to.write_all(vec![b'x'; size]).await;
        drop(to);
    };
    let (response, ()) = join!(client::send(request), written);
    let response = response?;
    drop(sent);
    let status = response.get_status_code();
    let (done, result) = wit_future::new(|| Ok(()));
    drop(done);
    let (body, trailers) = Response::consume_body(response, result);
    let text = body.collect().await;
    let how = match trailers.await {
        Ok(_) => String::new(),
        Err(e) => format!(" Some({e:?})"),
    };
    Ok(format!("{status} {} {}{how}", text.len(), String::from_utf8_lossy(&text[..text.len().min(100)])))
}

impl wasip3::exports::cli::run::Guest for Guest {
    async fn run() -> Result<(), ()> {
        let args = environment::get_arguments();
        match args.get(1).map(String::as_str) {
            Some("together") => {
                join!(after(300), after(100), after(200));
            }
            Some("world") => {
                let variable = environment::get_environment().into_iter().find(|(name, _)| name == "WHO");
                say(format!("{:?} {:?} {:?}\n", &args[2..], variable, environment::get_initial_cwd())).await;
            }
            Some("cat") => {
                let (input, _) = stdin::read_via_stream();
                say(String::from_utf8_lossy(&input.collect().await).into()).await;
            }
            Some("files") => {
                std::fs::write("/work/new", "by 0.2\n").expect("written");
                let found = std::fs::metadata("/work/new").expect("there");
                say(format!("{} {}", found.len(), read("var/run/new").await)).await;
                say(format!("{}\n", read("var/run/none").await)).await;
            }
            Some("connect") => {
                let got = connect(&args[2], args[3].parse().expect("a port")).await;
                say(format!("{got:?}\n")).await;
            }
            Some("GET" | "POST") => {
                let said = send(&args[1..]).await.unwrap_or_else(|e| format!("{e:?}"));
                say(format!("{said}\n")).await;
            }
            Some("cases") => {
                let mut t = cases::Cases::default();
                match args[2].as_str() {
                    "clocks" => wasi3::clocks(&mut t).await,
                    "files" => wasi3::files(&mut t).await,
                    "streams" => wasi3::streams(&mut t, &args[3]).await,
                    _ => {
                        wasi3::udp(&mut t).await;
                        wasi3::tcp(&mut t).await;
                    }
                }
                t.end();
            }
            Some("exit") => exit::exit_with_code(args[2].parse().expect("a code")),
            Some("trap") => panic!("oops"),
            Some("never") => {
                let (_to, mut from) = wit_stream::new::<u8>();
                from.next().await;
            }
            Some("asleep") => std::future::pending().await,
            _ => return Err(()),
        }
        Ok(())
    }
}

wasip3::cli::command::export!(Guest);

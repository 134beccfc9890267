// SPDX-License-Identifier: Apache-2.0

//! A guest that uses the network as any program does, by Rust's standard library.

use std::env::args;
use std::io::{BufRead, BufReader, Result, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};

/// What somebody says who is connected to.
fn connect(to: &str) -> Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(b"from the guest\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}

/// What somebody says who connects.
fn listen(at: &str) -> Result<String> {
    let listener = TcpListener::bind(at)?;
    println!("listening at {}", listener.local_addr()?.port());
    let (stream, _) = listener.accept()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    (&stream).write_all(line.as_bytes())?;
    Ok(line)
}

fn lookup(name: &str) -> Result<String> {
    let mut all: Vec<_> = (name, 0).to_socket_addrs()?.map(|a| a.ip().to_string()).collect();
    all.sort();
    all.dedup();
    Ok(all.join(" ") + "\n")
}

fn send(to: &str) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(b"from the guest\n", to)?;
    let mut piece = [0; 512];
    let n = socket.recv(&mut piece)?;
    Ok(String::from_utf8_lossy(&piece[..n]).into())
}

fn receive(at: &str) -> Result<String> {
    let socket = UdpSocket::bind(at)?;
    println!("listening at {}", socket.local_addr()?.port());
    let mut piece = [0; 512];
    let (n, from) = socket.recv_from(&mut piece)?;
    socket.send_to(&piece[..n], from)?;
    Ok(String::from_utf8_lossy(&piece[..n]).into())
}

fn main() {
    let words: Vec<String> = args().skip(1).collect();
    for pair in words.chunks(2) {
        let done = match pair[0].as_str() {
            "connect" => connect(&pair[1]),
            "listen" => listen(&pair[1]),
            "lookup" => lookup(&pair[1]),
            "send" => send(&pair[1]),
            "receive" => receive(&pair[1]),
            _ => panic!("{}: what is that?", pair[0]),
        };
        match done {
            Ok(said) => print!("{}: {said}", pair[0]),
            Err(e) => println!("{}: {:?}: {e}", pair[0], e.kind()),
        }
    }
}

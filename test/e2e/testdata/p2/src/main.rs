// SPDX-License-Identifier: Apache-2.0

//! A command of WASI 0.2 that sends an HTTP request: METHOD SCHEME AUTHORITY PATH, with
//! so many bytes of a body, and at most so many milliseconds until an answer comes.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{ErrorCode, Fields, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme};
use wasip2::io::streams::StreamError;

fn send(args: &[String]) -> Result<String, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_method(if args[0] == "POST" { &Method::Post } else { &Method::Get }).expect("a method");
    request
        .set_scheme(Some(if args[1] == "https" { &Scheme::Https } else { &Scheme::Http }))
        .expect("a scheme");
    request.set_authority(Some(&args[2])).expect("an authority");
    request.set_path_with_query(Some(&args[3])).expect("a path");
    let options = RequestOptions::new();
    if let Some(ms) = args.get(5) {
        options.set_first_byte_timeout(Some(ms.parse::<u64>().expect("a time") * 1_000_000)).expect("a time");
    }
    let body = request.body().expect("a body");
    let answer = outgoing_handler::handle(request, Some(options))?;
    {
        let to = body.write().expect("a stream");
        let mut left = args.get(4).map_or(0, |n| n.parse().expect("a size"));
        while left > 0 {
            let piece = left.min(4096);
            to.blocking_write_and_flush(&vec![b'x'; piece]).expect("taken");
            left -= piece;
        }
    }
    OutgoingBody::finish(body, None)?;
    answer.subscribe().block();
    let response = answer.get().expect("there").expect("once")?;
    let from = response.consume().expect("a body");
    let stream = from.stream().expect("a stream");
    let mut text = Vec::new();
    let how = loop {
        match stream.blocking_read(1 << 16) {
            Ok(piece) => text.extend(piece),
            Err(StreamError::Closed) => break String::new(),
            Err(StreamError::LastOperationFailed(e)) => {
                break format!(" {:?}", wasip2::http::types::http_error_code(&e));
            }
        }
    };
    Ok(format!(
        "{} {} {}{how}",
        response.status(),
        text.len(),
        String::from_utf8_lossy(&text[..text.len().min(100)])
    ))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match send(&args) {
        Ok(text) => println!("{text}"),
        Err(e) => println!("{e:?}"),
    }
}

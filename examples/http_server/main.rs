//! An HTTP server in Rust whose handlers are Python coroutines, all in one thread.
//!
//!     make example-http-server
//!
//! Rust accepts, parses and writes; `handlers.py` answers. The server stops at the end of its
//! standard input: another thread waits for that and stops the loop.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

use std::io::{self, Read};
use std::net::SocketAddr;
use std::rc::Rc;

use ferroloop::{Runtime, TcpListener, TcpStream, into_future, spawn_local};
use futures_util::{AsyncReadExt, AsyncWriteExt};
use pyo3::prelude::*;

const LONGEST_REQUEST: usize = 64 * 1024;

/// The parts of a request that handlers get.
struct Request {
    method: String,
    path: String,
    keep_alive: bool,
    length: usize,
}

fn main() -> PyResult<()> {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().unwrap_or(0));
    let runtime = Runtime::new()?;
    let handle = runtime.handle();
    std::thread::spawn(move || {
        // The end of the input stops the server, and so does an error.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        handle.stop()
    });
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/http_server");
    let handler = Python::attach(|py| -> PyResult<Py<PyAny>> {
        py.import("sys")?.getattr("path")?.call_method1("insert", (0, directory))?;
        Ok(py.import("handlers")?.getattr("handle")?.unbind())
    })?;
    let served = runtime.handle().spawn_with(move || serve(([127, 0, 0, 1], port).into(), handler));
    runtime.run_forever()?;
    runtime.close()?;
    // Closing the runtime dropped the server task, unless it failed before.
    match served.map(ferroloop::JoinHandle::join) {
        Ok(Ok(Err(error))) => Err(error),
        _ => Ok(()),
    }
}

/// Accepts connections forever; each connection is a task.
async fn serve(address: SocketAddr, handler: Py<PyAny>) -> PyResult<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening on http://{}", listener.local_addr()?);
    let handler = Rc::new(handler);
    loop {
        let (stream, _peer) = listener.accept().await?;
        let handler = handler.clone();
        Python::attach(|py| {
            spawn_local(py, async move {
                // A failed connection must not end the server.
                if let Err(error) = converse(stream, &handler).await {
                    eprintln!("connection lost: {error}");
                }
                Ok(())
            })
            .map(drop)
        })?;
    }
}

/// Answers requests on one connection until either side closes it.
async fn converse(mut stream: TcpStream, handler: &Py<PyAny>) -> PyResult<()> {
    let mut received = Vec::new();
    loop {
        let Some((request, head)) = read_head(&mut stream, &mut received).await? else {
            return Ok(());
        };
        while received.len() < head + request.length {
            if !read_more(&mut stream, &mut received).await? {
                return Ok(());
            }
        }
        let body = &received[head..head + request.length];
        let (status, answer) = respond(handler, &request, body).await;
        let connection = if request.keep_alive { "keep-alive" } else { "close" };
        let head_line = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
            answer.len()
        );
        received.drain(..head + request.length);
        stream.write_all(&[head_line.as_bytes(), &answer].concat()).await?;
        if !request.keep_alive {
            return Ok(stream.close().await?);
        }
    }
}

/// Calls the Python coroutine function; if it fails, the client gets status 500.
async fn respond(handler: &Py<PyAny>, request: &Request, body: &[u8]) -> (String, Vec<u8>) {
    let called = Python::attach(|py| {
        let arguments = (&request.method, &request.path, body);
        into_future(handler.bind(py).call1(arguments)?)
    });
    let answered = match called {
        Ok(awaited) => awaited.await,
        Err(error) => Err(error),
    };
    let answer = answered.and_then(|answer| Python::attach(|py| answer.extract(py)));
    answer.unwrap_or_else(|error| {
        eprintln!("handler failed: {error}");
        ("500 Internal Server Error".to_owned(), b"internal error\n".to_vec())
    })
}

/// Reads the head of a request; also returns its length. None at the end of the stream.
async fn read_head(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
) -> PyResult<Option<(Request, usize)>> {
    loop {
        if let Some(found) = parse(received)? {
            return Ok(Some(found));
        }
        if received.len() > LONGEST_REQUEST {
            return Err(io::Error::other("the request is too long").into());
        }
        if !read_more(stream, received).await? {
            return Ok(None);
        }
    }
}

async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 8192];
    let count = stream.read(&mut buffer).await?;
    received.extend_from_slice(&buffer[..count]);
    Ok(count != 0)
}

fn parse(received: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(received).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let header = |name: &str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    if length > LONGEST_REQUEST {
        return Err(io::Error::other("the request is too long"));
    }
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        keep_alive: parsed.version == Some(1) && !closes,
        length,
    };
    Ok(Some((request, head)))
}

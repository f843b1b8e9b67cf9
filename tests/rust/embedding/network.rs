//! Sockets of Rust code on the loop, with Python code at the other end.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ferroloop::{
    AsyncFd, Direction, TcpListener, TcpStream, UnixListener, UnixStream, coroutine, spawn_local,
    timeout,
};
use futures_util::{AsyncReadExt, AsyncWriteExt, future};
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::support::{Case, module, run, runtime};

pub const CASES: &[Case] = &[
    ("Python streams talk to a Rust server", python_client),
    ("megabytes go both ways", bulk),
    ("a refused connection is an error", refused),
    ("UNIX streams connect", unix),
    ("readiness of any descriptor is awaited", pipe),
    ("a closed peer is seen", closed),
    ("descriptors of other owners are refused", owners),
    ("a second wait for a direction is an error", second_wait),
    ("a task whose sockets are always ready yields", yielding),
];

const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn echo(mut stream: TcpStream) -> PyResult<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            stream.close().await?;
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

fn python_client() {
    let source = "
async def main():
    port = serve()
    async def talk(number):
        reader, writer = await asyncio.open_connection('127.0.0.1', port)
        for line in range(20):
            text = b'%d %d\\n' % (number, line)
            writer.write(text)
            assert await reader.readline() == text
        writer.write_eof()
        assert await reader.read() == b''
        writer.close()
        await writer.wait_closed()
    await asyncio.gather(*map(talk, range(20)))
";
    run(
        source,
        &[("serve", |py| {
            let listener = TcpListener::bind(LOCAL.into())?;
            let port = listener.local_addr()?.port();
            spawn_local(py, async move {
                loop {
                    let (stream, peer) = listener.accept().await?;
                    assert_eq!(stream.peer_addr()?, peer);
                    Python::attach(|py| spawn_local(py, echo(stream)).map(drop))?;
                }
                #[expect(unreachable_code, reason = "says what the type is")]
                Ok(())
            })?;
            Ok(port.into_pyobject(py)?.into_any())
        })],
    )
    .unwrap();
}

fn bulk() {
    runtime()
        .block_on(async {
            let listener = TcpListener::bind(LOCAL.into())?;
            let address = listener.local_addr()?;
            let server = async { echo(listener.accept().await?.0).await.map_err(io::Error::other) };
            let client = async {
                let stream = TcpStream::connect(address).await?;
                let data: Vec<u8> = (0..4_000_000_u32).map(|number| number as u8).collect();
                let mut received = Vec::new();
                let (mut reader, mut writer) = (&stream, &stream);
                let write = async {
                    writer.write_all(&data).await?;
                    writer.close().await
                };
                let (written, read) = future::join(write, reader.read_to_end(&mut received)).await;
                written?;
                read?;
                assert!(received == data, "bytes were changed");
                Ok::<_, io::Error>(())
            };
            let (served, asked) = future::join(server, client).await;
            served.and(asked)
        })
        .unwrap()
        .unwrap();
}

fn refused() {
    let error = runtime()
        .block_on(async {
            let address = TcpListener::bind(LOCAL.into())?.local_addr()?;
            TcpStream::connect(address).await.map(drop)
        })
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

fn unix() {
    let path = std::env::temp_dir().join(format!("ferroloop-{}.sock", std::process::id()));
    let place = path.clone();
    runtime()
        .block_on(async move {
            let listener = UnixListener::bind(&place)?;
            let client = async {
                let mut stream = UnixStream::connect(&place).await?;
                stream.write_all(b"ping").await?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                assert_eq!(answer, "pong");
                Ok::<_, io::Error>(())
            };
            let server = async {
                let (mut stream, _) = listener.accept().await?;
                let mut question = [0; 4];
                stream.read_exact(&mut question).await?;
                assert_eq!(&question, b"ping");
                stream.write_all(b"pong").await?;
                stream.close().await
            };
            let (asked, served) = future::join(client, server).await;
            asked.and(served)
        })
        .unwrap()
        .unwrap();
    std::fs::remove_file(path).unwrap();
}

fn pipe() {
    runtime()
        .block_on(async {
            let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
            let reader = AsyncFd::new(reader)?;
            let early = timeout(Duration::from_millis(2), reader.ready(Direction::Read)).await;
            assert!(early.is_err(), "ready without data");
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(2));
                io::Write::write_all(&mut writer, b"x").map(|()| writer)
            });
            timeout(Duration::from_secs(10), reader.ready(Direction::Read)).await.unwrap()?;
            let mut byte = [0];
            io::Read::read_exact(&mut reader.get_ref(), &mut byte)?;
            assert_eq!(&byte, b"x");
            drop(thread.join().unwrap()?);
            timeout(Duration::from_secs(10), reader.ready(Direction::Read)).await.unwrap()?;
            assert_eq!(io::Read::read(&mut reader.get_ref(), &mut byte)?, 0);
            Ok::<_, io::Error>(())
        })
        .unwrap()
        .unwrap();
}

fn closed() {
    runtime()
        .block_on(async {
            let (mut one, mut other) = UnixStream::pair()?;
            other.write_all(b"last words").await?;
            drop(other);
            let mut words = String::new();
            one.read_to_string(&mut words).await?;
            assert_eq!(words, "last words");
            let error = one.write_all(b"?").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
            Ok::<_, io::Error>(())
        })
        .unwrap()
        .unwrap();
}

fn owners() {
    let source = "
import socket, warnings
async def refused(fd, text):
    try:
        await ready(fd)
    except RuntimeError as error:
        assert str(error).startswith(text), error
    else:
        raise AssertionError('not refused')

async def main():
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    fd = ours.fileno()

    # A callback keeps its descriptor.
    received = []
    read = lambda: received.append(ours.recv(9))
    loop.add_reader(fd, read)
    await refused(fd, f'File descriptor {fd} is used by <Handle ')
    theirs.send(b'1')
    await asyncio.sleep(0.01)
    assert received == [b'1'], received
    loop.remove_reader(fd)
    theirs.send(b'2')
    await ready(fd)
    assert ours.recv(9) == b'2'

    # So does a Rust future.
    first = asyncio.ensure_future(ready(fd))
    await asyncio.sleep(0)
    await refused(fd, f'Another task waits for file descriptor {fd}')
    loop.remove_reader(fd)
    await asyncio.sleep(0.01)
    theirs.send(b'3')
    await asyncio.wait_for(first, 10)
    assert ours.recv(9) == b'3'
    first = asyncio.ensure_future(ready(fd))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    theirs.send(b'4')
    await ready(fd)
    assert ours.recv(9) == b'4'

    # It learns that it has lost the descriptor.
    for take in (
        lambda: loop.add_reader(fd, read),
        lambda: asyncio.ensure_future(loop.sock_recv(ours, 9)),
    ):
        first = asyncio.ensure_future(ready(fd))
        await asyncio.sleep(0)
        taken = take()
        await asyncio.sleep(0.01)
        assert str(first.exception()).startswith(f'File descriptor {fd} is used by <'), first
        theirs.send(b'5')
        await asyncio.sleep(0.01)
        assert (received.pop() if taken is None else await taken) == b'5'
        loop.remove_reader(fd)

    # A transport keeps its descriptor, also while it is paused.
    first = asyncio.ensure_future(ready(fd))
    await asyncio.sleep(0)
    class Protocol(asyncio.Protocol):
        def data_received(self, data):
            received.append(data)
    transport, _ = await loop.create_connection(Protocol, sock=ours)
    used = f'File descriptor {fd} is used by transport <'
    await asyncio.sleep(0.01)
    assert str(first.exception()).startswith(used), first
    await refused(fd, used)
    transport.pause_reading()
    await asyncio.sleep(0)
    await refused(fd, used)
    transport.resume_reading()
    theirs.send(b'6')
    await asyncio.sleep(0.01)
    assert received.pop() == b'6'
    transport.close()
    await asyncio.sleep(0)
    theirs.close()

    # A watch of a closed file is none of the file that has the number now.
    closed, other = socket.socketpair()
    fd = closed.fileno()
    loop.add_reader(closed, print)
    closed.close()
    other.close()
    one, other = socket.socketpair()
    assert fd == one.fileno()
    other.send(b'7')
    await asyncio.wait_for(ready(fd), 10)
    one.close()
    other.close()
";
    let runtime = runtime();
    Python::attach(|py| {
        let globals = module(py, source, &[])?;
        let ready = PyCFunction::new_closure(py, None, None, |arguments, _| {
            let fd: std::os::fd::RawFd = arguments.get_item(0)?.extract()?;
            let waits = async move { Ok(AsyncFd::new(fd)?.ready(Direction::Read).await?) };
            coroutine(arguments.py(), "ready", waits).map(Bound::unbind)
        })?;
        globals.set_item("ready", ready)?;
        runtime.run(&globals.get_item("main")?.expect("main()").call0()?).map(drop)
    })
    .unwrap();
    runtime.close().unwrap();
}

fn second_wait() {
    runtime()
        .block_on(async {
            let listener = TcpListener::bind(LOCAL.into())?;
            let address = listener.local_addr()?;
            let connect = async {
                ferroloop::sleep(Duration::from_millis(2)).await;
                TcpStream::connect(address).await
            };
            let (first, second, connected) =
                future::join3(listener.accept(), listener.accept(), connect).await;
            assert_eq!(second.err().map(|error| error.kind()), Some(io::ErrorKind::ResourceBusy));
            let stream = first?.0;
            connected?;
            // Not after the first wait was given up.
            let stopped = timeout(Duration::from_millis(1), listener.accept()).await;
            assert!(stopped.is_err());
            let (accepted, connected) =
                future::join(listener.accept(), TcpStream::connect(address)).await;
            accepted.and(connected)?;
            // The two directions do not exclude each other.
            let both = AsyncFd::new(stream.into_std())?;
            let reads = timeout(Duration::from_millis(5), both.ready(Direction::Read));
            let (read, written) = future::join(reads, both.ready(Direction::Write)).await;
            assert!(read.is_ok_and(|read| read.is_ok()), "the peer has closed");
            written
        })
        .unwrap()
        .unwrap();
}

fn yielding() {
    /// How many turns of the loop `task` takes.
    async fn turns<F: Future<Output = io::Result<()>>>(task: F) -> io::Result<u32> {
        let turns = Rc::new(Cell::new(Some(0)));
        let counter = turns.clone();
        let count = async move {
            while let Some(count) = counter.get() {
                counter.set(Some(count + 1));
                ferroloop::yield_now().await;
            }
            Ok(())
        };
        Python::attach(|py| spawn_local(py, count).map(drop)).map_err(io::Error::other)?;
        let done = task.await;
        let counted = turns.take().unwrap_or_default();
        turns.set(None);
        done.map(|()| counted)
    }
    const OPERATIONS: usize = 1024;
    runtime()
        .block_on(async {
            // TCP merges small messages, so all of them fit into the kernel's buffers.
            let listener = TcpListener::bind(LOCAL.into())?;
            let connect = TcpStream::connect(listener.local_addr()?);
            let (accepted, connected) = future::join(listener.accept(), connect).await;
            let (mut one, mut other) = (accepted?.0, connected?);
            let written = turns(async {
                for _ in 0..OPERATIONS {
                    one.write_all(&[1; 16]).await?;
                }
                Ok(())
            });
            assert!(written.await? >= 7, "writes");
            let read = turns(async {
                let mut buffer = [0; 16];
                for _ in 0..OPERATIONS {
                    other.read_exact(&mut buffer).await?;
                }
                Ok(())
            });
            assert!(read.await? >= 7, "reads");
            let descriptor = AsyncFd::new(one.into_std())?;
            let called = turns(async {
                for _ in 0..OPERATIONS {
                    descriptor.io(Direction::Write, |_| Ok(())).await?;
                }
                Ok(())
            });
            assert!(called.await? >= 7, "other operations");
            // A future that waits is not woken more often than before.
            let waited = turns(async {
                for _ in 0..10 {
                    descriptor.ready(Direction::Write).await?;
                }
                Ok(())
            });
            assert!(waited.await? >= 10, "waits");
            Ok::<_, io::Error>(())
        })
        .unwrap()
        .unwrap();
}

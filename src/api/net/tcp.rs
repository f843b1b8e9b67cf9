//! TCP sockets.

use std::io;
use std::net::{self, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::api::net::stream::byte_stream;
use crate::api::net::{AsyncFd, Direction};

/// A TCP connection, with `TCP_NODELAY` set as asyncio does.
///
/// ```
/// use futures_util::{AsyncReadExt, AsyncWriteExt};
///
/// async fn ask(server: std::net::SocketAddr) -> std::io::Result<String> {
///     let mut stream = ferroloop::TcpStream::connect(server).await?;
///     stream.write_all(b"hello\n").await?;
///     let mut answer = String::new();
///     stream.read_to_string(&mut answer).await?;
///     Ok(answer)
/// }
/// ```
pub struct TcpStream(AsyncFd<net::TcpStream>);

byte_stream!(TcpStream, net::TcpStream);

impl TcpStream {
    /// Connects to an address. The program must resolve host names itself, for example by
    /// [`ToSocketAddrs`](std::net::ToSocketAddrs) in [`spawn_blocking`](crate::spawn_blocking).
    ///
    /// # Errors
    /// Errors of the system calls; if no loop of ferroloop runs in this thread.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = Self(AsyncFd::new(mio::net::TcpStream::connect(address)?.into())?);
        stream.0.ready(Direction::Write).await?;
        if let Some(error) = stream.get_ref().take_error()? {
            return Err(error);
        }
        stream.get_ref().set_nodelay(true)?;
        Ok(stream)
    }

    /// The local address.
    ///
    /// # Errors
    /// Those of the standard library's method.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().local_addr()
    }

    /// The peer's address.
    ///
    /// # Errors
    /// Those of the standard library's method.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().peer_addr()
    }
}

/// A listening TCP socket.
///
/// ```
/// async fn serve(listener: ferroloop::TcpListener) -> std::io::Result<()> {
///     let (stream, peer) = listener.accept().await?;
///     println!("{peer} has connected");
///     stream.shutdown(std::net::Shutdown::Both)
/// }
/// ```
pub struct TcpListener(AsyncFd<net::TcpListener>);

impl TcpListener {
    /// Listens on an address; with port 0 the system chooses the port.
    ///
    /// # Errors
    /// Errors of the system calls; if no loop of ferroloop runs in this thread.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::from_std(net::TcpListener::bind(address)?)
    }

    /// Takes a listening socket of the standard library and makes it non-blocking.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking, or if no loop of ferroloop runs in this thread.
    pub fn from_std(socket: net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(AsyncFd::new(socket)?))
    }

    /// Accepts the next connection. Dropping the future loses no connection.
    ///
    /// # Errors
    /// Errors of the system calls, for example that the process has too many open descriptors.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, address) = self.0.io(Direction::Read, |socket| socket.accept()).await?;
        socket.set_nodelay(true)?;
        Ok((TcpStream::from_std(socket)?, address))
    }

    /// The address that the socket listens on.
    ///
    /// # Errors
    /// Those of the standard library's method.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }
}

//! UNIX stream sockets.

use std::io;
use std::os::unix::net::{self, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::api::net::stream::byte_stream;
use crate::api::net::{AsyncFd, Direction};

/// A UNIX stream connection.
///
/// ```
/// use futures_util::AsyncWriteExt;
///
/// async fn greet(path: &str) -> std::io::Result<()> {
///     let mut stream = ferroloop::UnixStream::connect(path).await?;
///     stream.write_all(b"hello\n").await
/// }
/// ```
pub struct UnixStream(AsyncFd<net::UnixStream>);

byte_stream!(UnixStream, net::UnixStream);

impl UnixStream {
    /// Connects to a path.
    ///
    /// # Errors
    /// Errors of the system calls (WouldBlock if the listener's backlog is full); if no loop of
    /// ferroloop runs in this thread.
    pub async fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let stream = Self(AsyncFd::new(mio::net::UnixStream::connect(path)?.into())?);
        stream.0.ready(Direction::Write).await?;
        match stream.get_ref().take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// Creates two connected streams.
    ///
    /// ```
    /// use futures_util::{AsyncReadExt, AsyncWriteExt};
    ///
    /// # fn main() -> pyo3::PyResult<()> {
    /// let runtime = ferroloop::Runtime::new()?;
    /// let received = runtime.block_on(async {
    ///     let (mut one, mut other) = ferroloop::UnixStream::pair()?;
    ///     one.write_all(b"hello").await?;
    ///     let mut buffer = [0; 5];
    ///     other.read_exact(&mut buffer).await?;
    ///     std::io::Result::Ok(buffer)
    /// })??;
    /// assert_eq!(&received, b"hello");
    /// runtime.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Errors of the system calls; if no loop of ferroloop runs in this thread.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = net::UnixStream::pair()?;
        Ok((Self::from_std(one)?, Self::from_std(other)?))
    }
}

/// A listening UNIX stream socket.
///
/// ```
/// use futures_util::AsyncWriteExt;
///
/// async fn serve(path: &str) -> std::io::Result<()> {
///     let listener = ferroloop::UnixListener::bind(path)?;
///     loop {
///         let (mut stream, _address) = listener.accept().await?;
///         stream.write_all(b"hello\n").await?;
///     }
/// }
/// ```
pub struct UnixListener(AsyncFd<net::UnixListener>);

impl UnixListener {
    /// Listens on a path, which must not exist. The program must remove it afterwards.
    ///
    /// # Errors
    /// Errors of the system calls; if no loop of ferroloop runs in this thread.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_std(net::UnixListener::bind(path)?)
    }

    /// Takes a listening socket of the standard library and makes it non-blocking.
    ///
    /// # Errors
    /// If the socket cannot be made non-blocking, or if no loop of ferroloop runs in this thread.
    pub fn from_std(socket: net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(AsyncFd::new(socket)?))
    }

    /// Accepts the next connection. Dropping the future loses no connection.
    ///
    /// # Errors
    /// Errors of the system calls, for example that the process has too many open descriptors.
    pub async fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (socket, address) = self.0.io(Direction::Read, |socket| socket.accept()).await?;
        Ok((UnixStream::from_std(socket)?, address))
    }
}

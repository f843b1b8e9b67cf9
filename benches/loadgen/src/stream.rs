//! One connection over any of the transports.
#![allow(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::failure::Failure;
use crate::tls::TlsStream;

/// A connected, non-blocking socket.
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// A UNIX stream socket.
    Unix(UnixStream),
    /// A connected UDP socket: one read or write is one datagram.
    Udp(UdpSocket),
}

impl Stream {
    /// Connect to `scheme:address`.
    pub fn connect(to: &str) -> Result<Self, Failure> {
        let (scheme, address) =
            to.split_once(':').ok_or_else(|| Failure::Usage(format!("{to:?} is no address")))?;
        let stream = match scheme {
            "tcp" => Self::Tcp(tcp(address)?),
            "tls" => Self::Tls(Box::new(TlsStream::new(tcp(address)?)?)),
            "unix" => {
                let unix = UnixStream::connect(address)?;
                unix.set_nonblocking(true)?;
                Self::Unix(unix)
            }
            "udp" => {
                let udp = UdpSocket::bind("127.0.0.1:0")?;
                udp.connect(address)?;
                udp.set_nonblocking(true)?;
                Self::Udp(udp)
            }
            _ => return Err(Failure::Usage(format!("no such scheme: {scheme}"))),
        };
        Ok(stream)
    }

    /// The descriptor, for the poller.
    pub fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(socket) => socket.as_raw_fd(),
            Self::Tls(stream) => stream.fd(),
            Self::Unix(socket) => socket.as_raw_fd(),
            Self::Udp(socket) => socket.as_raw_fd(),
        }
    }

    /// Have the end of the connection reset it: tens of thousands of connections that end in the
    /// usual way would use up the local ports for a minute.
    pub fn reset_at_end(&self) -> io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as libc::socklen_t;
        let value = (&raw const linger).cast();
        // SAFETY: the value is a live structure of the size given.
        let status =
            unsafe { libc::setsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, size) };
        if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Read available data; 0 at the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }

    /// Write as much as the socket accepts.
    pub fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(data),
            Self::Tls(stream) => stream.write(data),
            Self::Unix(socket) => socket.write(data),
            Self::Udp(socket) => socket.send(data),
        }
    }

    /// Whether bytes that `write` accepted are not sent yet.
    pub fn has_unsent(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.has_unsent())
    }
}

fn tcp(address: &str) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

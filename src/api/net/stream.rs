//! The methods and traits that TCP and UNIX streams share.

/// Implements the traits of `futures-io` for a stream that wraps an [`AsyncFd`], also for
/// references to it, so that both directions can be used at once.
///
/// [`AsyncFd`]: crate::api::net::AsyncFd
macro_rules! byte_stream {
    ($stream:ident, $socket:ty) => {
        impl $stream {
            /// Takes a connected socket of the standard library and makes it non-blocking.
            ///
            /// # Errors
            /// If the socket cannot be made non-blocking, or if no loop of ferroloop runs in this
            /// thread.
            pub fn from_std(socket: $socket) -> std::io::Result<Self> {
                socket.set_nonblocking(true)?;
                Ok(Self(AsyncFd::new(socket)?))
            }

            /// Returns the socket, which stays non-blocking.
            pub fn into_std(self) -> $socket {
                self.0.into_inner()
            }

            /// The socket, for its options and addresses.
            pub fn get_ref(&self) -> &$socket {
                self.0.get_ref()
            }

            /// Shuts down one direction of the connection or both.
            ///
            /// # Errors
            /// Those of the standard library's method.
            pub fn shutdown(&self, how: std::net::Shutdown) -> std::io::Result<()> {
                self.0.get_ref().shutdown(how)
            }
        }

        impl futures_io::AsyncRead for &$stream {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<std::io::Result<usize>> {
                self.0.poll_io(context, Direction::Read, |mut socket| {
                    std::io::Read::read(&mut socket, buffer)
                })
            }
        }

        impl futures_io::AsyncWrite for &$stream {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<std::io::Result<usize>> {
                self.0.poll_io(context, Direction::Write, |mut socket| {
                    std::io::Write::write(&mut socket, data)
                })
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> Poll<std::io::Result<usize>> {
                self.0.poll_io(context, Direction::Write, |mut socket| {
                    std::io::Write::write_vectored(&mut socket, slices)
                })
            }

            fn poll_flush(
                self: Pin<&mut Self>,
                _context: &mut Context<'_>,
            ) -> Poll<std::io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            /// Half-closes the connection: shuts down writing; reading remains possible.
            fn poll_close(
                self: Pin<&mut Self>,
                _context: &mut Context<'_>,
            ) -> Poll<std::io::Result<()>> {
                Poll::Ready(match self.shutdown(std::net::Shutdown::Write) {
                    // The peer has closed the connection already.
                    Err(error) if error.kind() == std::io::ErrorKind::NotConnected => Ok(()),
                    other => other,
                })
            }
        }

        impl futures_io::AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<std::io::Result<usize>> {
                Pin::new(&mut &*self).poll_read(context, buffer)
            }
        }

        impl futures_io::AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<std::io::Result<usize>> {
                Pin::new(&mut &*self).poll_write(context, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> Poll<std::io::Result<usize>> {
                Pin::new(&mut &*self).poll_write_vectored(context, slices)
            }

            fn poll_flush(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<std::io::Result<()>> {
                Pin::new(&mut &*self).poll_flush(context)
            }

            fn poll_close(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<std::io::Result<()>> {
                Pin::new(&mut &*self).poll_close(context)
            }
        }

        impl std::os::fd::AsRawFd for $stream {
            fn as_raw_fd(&self) -> std::os::fd::RawFd {
                self.0.get_ref().as_raw_fd()
            }
        }
    };
}

pub(in crate::api::net) use byte_stream;

//! Everything that ends a run early.

use std::fmt;
use std::process::ExitCode;

/// Why there is no figure.
#[derive(Debug)]
pub enum Failure {
    /// The server sent a wrong answer.
    WrongReply(String),
    /// The server stopped answering.
    Silence,
    /// The server closed a connection during an exchange.
    Closed,
    /// A system call failed.
    Io(std::io::Error),
    /// TLS refused.
    Tls(rustls::Error),
    /// The command line makes no sense.
    Usage(String),
}

impl Failure {
    /// Tells the caller what kind of failure it was.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::WrongReply(_) => ExitCode::from(2),
            Self::Silence => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongReply(what) => write!(f, "{what}"),
            Self::Silence => write!(f, "the server stopped answering"),
            Self::Closed => write!(f, "the server closed the connection"),
            Self::Io(error) => write!(f, "load generator: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Usage(what) => write!(f, "load generator: {what}"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustls::Error> for Failure {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

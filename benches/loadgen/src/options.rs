//! The command line: `loadgen MODE [--option value]...`.

use std::time::Duration;

use crate::failure::Failure;

/// What each connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Send `size` bytes and read them back, repeatedly.
    Echo,
    /// The same once per connection, then open a new connection.
    Connect,
    /// Upload `size` bytes and read how many arrived. The operation is a MiB.
    Upload,
    /// Request `size` bytes and read them. The operation is a MiB.
    Download,
    /// GET over a kept-alive connection; the body has `size` bytes.
    Http,
    /// Binary messages of `size` bytes, echoed by a WebSocket server.
    Websocket,
    /// Open `connections`, exchange one message on each, report the server's growth in bytes.
    Idle,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do.
    pub mode: Mode,
    /// `tcp:HOST:PORT`, `tls:HOST:PORT`, `udp:HOST:PORT` or `unix:PATH`.
    pub to: String,
    /// How many connections at a time.
    pub connections: usize,
    /// How many of them exchange messages; the others are idle after one exchange.
    pub active: usize,
    /// Report the time within which this percentage of replies comes.
    pub latency: Option<f64>,
    /// The average time from one request to the next, for `latency`.
    pub interval: Duration,
    /// Bytes per message.
    pub size: usize,
    /// How long to measure, after a warm-up.
    pub duration: Duration,
    /// The core to run on.
    pub cpu: Option<usize>,
    /// The server's process, for `idle` and `cpu_time`.
    pub pid: Option<u32>,
    /// Report the server's CPU time instead of wall-clock time.
    pub cpu_time: bool,
}

impl Options {
    /// Parse the arguments after the program's name.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mode = match arguments.next().as_deref() {
            Some("echo") => Mode::Echo,
            Some("connect") => Mode::Connect,
            Some("upload") => Mode::Upload,
            Some("download") => Mode::Download,
            Some("http") => Mode::Http,
            Some("websocket") => Mode::Websocket,
            Some("idle") => Mode::Idle,
            other => return Err(Failure::Usage(format!("unknown mode {other:?}"))),
        };
        let mut options = Self {
            mode,
            to: String::new(),
            connections: 1,
            active: 0,
            latency: None,
            interval: Duration::ZERO,
            size: 1024,
            duration: Duration::from_secs(1),
            cpu: None,
            pid: None,
            cpu_time: false,
        };
        while let Some(name) = arguments.next() {
            let value =
                arguments.next().ok_or_else(|| Failure::Usage(format!("{name} wants a value")))?;
            match name.as_str() {
                "--to" => options.to = value,
                "--connections" => options.connections = number(&name, &value)?,
                "--active" => options.active = number(&name, &value)?,
                "--latency" => options.latency = Some(number(&name, &value)?),
                "--interval" => {
                    options.interval = Duration::from_nanos(number::<u64>(&name, &value)?);
                }
                "--size" => options.size = number(&name, &value)?,
                "--seconds" => options.duration = Duration::from_secs_f64(number(&name, &value)?),
                "--cpu" => options.cpu = Some(number(&name, &value)?),
                "--pid" => options.pid = Some(number(&name, &value)?),
                "--clock" => options.cpu_time = value == "cpu",
                _ => return Err(Failure::Usage(format!("unknown option {name}"))),
            }
        }
        if options.to.is_empty() || options.connections == 0 || options.size == 0 {
            return Err(Failure::Usage("--to is missing, or a number is 0".into()));
        }
        if options.active == 0 || options.active > options.connections {
            options.active = options.connections;
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Failure> {
    value.parse().map_err(|_| Failure::Usage(format!("{name}: {value:?} is not a number")))
}

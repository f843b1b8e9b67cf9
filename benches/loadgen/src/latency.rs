//! How long replies take when requests come at random times.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::{Engine, PATIENCE, wait_until_asleep};
use crate::failure::Failure;
use crate::options::Options;

/// Replies, at least: four are slower than 99.9 %.
const LEAST_REPLIES: usize = 4000;

/// The nanoseconds within which `percentage` of the replies come, each from the time when its request
/// was due: a request that had to wait for a free connection has waited.
pub fn measure(options: &Options, percentage: f64) -> Result<f64, Failure> {
    let mut engine = Engine::new(options)?;
    engine.open_all()?;
    engine.warm_up()?;
    engine.drain()?;
    let interval = options.interval.as_secs_f64();
    let count = LEAST_REPLIES.max((options.duration.as_secs_f64() / interval) as usize);
    let mut latencies = at_rate(&mut engine, interval, count)?;
    drop(engine);
    if let Some(pid) = options.pid {
        wait_until_asleep(pid)?;
    }
    latencies.sort_unstable();
    let position = (latencies.len() as f64 * percentage / 100.0) as usize;
    Ok(latencies[position.min(latencies.len() - 1)].as_nanos() as f64)
}

/// Sends `count` requests at random times, on average every `interval` seconds.
fn at_rate(engine: &mut Engine<'_>, interval: f64, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut pause = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let uniform = ((random >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        Duration::from_secs_f64(-uniform.ln() * interval)
    };
    let mut free: VecDeque<usize> = (0..engine.connections.len()).collect();
    let mut begun = vec![Instant::now(); free.len()];
    let mut waiting = VecDeque::new();
    let mut latencies = Vec::with_capacity(count);
    let (mut due, mut sent) = (Instant::now(), 0);
    let mut last = Instant::now();
    while latencies.len() < count {
        // It has a core of its own, so it never sleeps.
        let now = Instant::now();
        while sent < count && due <= now {
            waiting.push_back(due);
            due += pause();
            sent += 1;
        }
        while let (Some(&index), Some(&since)) = (free.front(), waiting.front()) {
            free.pop_front();
            waiting.pop_front();
            begun[index] = since;
            engine.connections[index].begin()?;
            engine.connections[index].update_interest(index, &engine.poller)?;
        }
        engine.ready.clear();
        engine.poller.wait(0, &mut engine.ready)?;
        for position in 0..engine.ready.len() {
            let index = engine.ready[position];
            if engine.exchange(index)? {
                last = Instant::now();
                latencies.push(last - begun[index]);
                free.push_back(index);
            }
        }
        if waiting.len() + (begun.len() - free.len()) > 0 && last.elapsed() > PATIENCE {
            return Err(Failure::Silence);
        }
    }
    Ok(latencies)
}

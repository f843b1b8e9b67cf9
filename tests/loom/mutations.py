#!/usr/bin/env python3
"""Breaks the protocols that the models explore, one way at a time: a model must fail each time.

    python3 tests/loom/mutations.py [WORD]

WORD selects the mutations whose description or file contains it. Standard library only.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build" / "loom-mutations"

WAKE_SIGNAL = "src/reactor/wake_signal.rs"
WAKER = "src/reactor/poller/waker.rs"
MESSAGES = "src/scheduler/message_queue.rs"
POLL_STATE = "src/api/futures/poll_state.rs"
ARENA = "src/api/futures/arena.rs"
JOBS = "src/executor/queue/jobs.rs"

PUSH = """match self.messages.lock().as_deref_mut() {
            Some(Some(messages)) => messages.push(message),
            _ => return Err(message),
        }
"""
TAKE_ALONE = (
    "self.messages.lock().as_deref_mut().and_then(Option::as_mut).map(std::mem::take)"
    ".unwrap_or_default()"
)
TAKE = """self.has_any.store(false, Ordering::SeqCst);
        let mut messages = self.messages.lock();
        messages.as_deref_mut().and_then(Option::as_mut).map(std::mem::take).unwrap_or_default()
"""
SET_FLAG = "self.has_any.store(true, Ordering::SeqCst);\n"


@dataclass(frozen=True)
class Mutation:
    """Text that occurs once in a file, and what stands in its place."""

    what: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "the loop sleeps without a second look",
        WAKE_SIGNAL,
        "wait(!has_work())",
        "wait(true)",
    ),
    Mutation(
        "the loop looks before it counts as asleep",
        WAKE_SIGNAL,
        "self.set_asleep(true);\n        let result = wait(!has_work());",
        "let idle = !has_work();\n        self.set_asleep(true);\n        let result = wait(idle);",
    ),
    Mutation(
        "the loop does not count as asleep",
        WAKE_SIGNAL,
        "self.set_asleep(true);\n",
        "",
    ),
    Mutation(
        "going to sleep does not synchronise with the last notification",
        WAKE_SIGNAL,
        "self.asleep.swap(asleep, Ordering::SeqCst);",
        "self.asleep.store(asleep, Ordering::SeqCst);",
    ),
    Mutation(
        "a notification does not wake",
        WAKE_SIGNAL,
        "waker.as_ref().map(|waker| waker.wake())",
        "waker.as_ref().map(|_| std::io::Result::Ok(()))",
    ),
    Mutation(
        "a reported wake-up stays pending",
        WAKER,
        "self.pending.swap(false, Ordering::AcqRel);",
        "",
    ),
    Mutation(
        "reporting a wake-up does not synchronise with its callers",
        WAKER,
        "self.pending.swap(false, Ordering::AcqRel);",
        "self.pending.store(false, Ordering::Release);",
    ),
    Mutation(
        "a message sets no flag",
        MESSAGES,
        "self.has_any.store(true, Ordering::SeqCst);",
        "",
    ),
    Mutation(
        "the flag is set before the message is there",
        MESSAGES,
        PUSH + "        " + SET_FLAG,
        SET_FLAG + "        " + PUSH,
    ),
    Mutation(
        "the flag is cleared after the messages were taken",
        MESSAGES,
        TAKE,
        "let taken = " + TAKE_ALONE + ";\n        self.has_any.store(false, Ordering::SeqCst);\n"
        "        taken\n",
    ),
    Mutation(
        "a nested turn clears the flag of the messages that it leaves",
        MESSAGES,
        "self.has_any.store(!messages.is_empty(), Ordering::SeqCst)",
        "self.has_any.store(false, Ordering::SeqCst)",
    ),
    Mutation(
        "a closed loop takes messages",
        MESSAGES,
        "and_then(Option::take)",
        "and_then(Option::as_mut).map(std::mem::take)",
    ),
    Mutation(
        "a poll does not synchronise with the wake-up before it",
        POLL_STATE,
        "self.0.swap(POLLED, Ordering::SeqCst);",
        "self.0.store(POLLED, Ordering::SeqCst);",
    ),
    Mutation(
        "a future parks although it was woken during the poll",
        POLL_STATE,
        "self.0.compare_exchange(POLLED, PARKED, Ordering::SeqCst, Ordering::SeqCst).is_ok()",
        "{ self.0.store(PARKED, Ordering::SeqCst); true }",
    ),
    Mutation(
        "a wake-up during a poll sends a message",
        POLL_STATE,
        "self.0.swap(WOKEN, Ordering::SeqCst) == PARKED",
        "self.0.swap(WOKEN, Ordering::SeqCst) != WOKEN",
    ),
    Mutation(
        "each wake-up of a parked future sends a message",
        POLL_STATE,
        "self.0.swap(WOKEN, Ordering::SeqCst) == PARKED",
        "{ let parked = self.0.load(Ordering::SeqCst) == PARKED;\n"
        "self.0.store(WOKEN, Ordering::SeqCst); parked }",
    ),
    Mutation(
        "a finished future is still parked",
        POLL_STATE,
        "self.0.store(WOKEN, Ordering::SeqCst);",
        "self.0.store(PARKED, Ordering::SeqCst);",
    ),
    Mutation(
        "a request sets no flag",
        ARENA,
        "self.has_requests.store(true, Ordering::Release);",
        "",
    ),
    Mutation(
        "the flag is set before the request is there",
        ARENA,
        "self.requests.lock().push(request);\n"
        "        self.has_requests.store(true, Ordering::Release);",
        "self.has_requests.store(true, Ordering::Release);\n"
        "        self.requests.lock().push(request);",
    ),
    Mutation(
        "the flag is cleared after the requests were taken",
        ARENA,
        "arena.shared.has_requests.store(false, Ordering::Relaxed);\n"
        "    let requests = std::mem::take(&mut *arena.shared.requests.lock());",
        "let requests = std::mem::take(&mut *arena.shared.requests.lock());\n"
        "    arena.shared.has_requests.store(false, Ordering::Relaxed);",
    ),
    Mutation(
        "a released slot keeps its future",
        ARENA,
        "SlotRequest::FreeSlot(key) => slots.remove(key).flatten(),",
        "SlotRequest::FreeSlot(key) => { let _ = key; None }",
    ),
    Mutation(
        "a pushed job signals no worker",
        JOBS,
        "self.signal_one(&mut state);\n        Ok(Pushed { ticket, new_worker: None })",
        "Ok(Pushed { ticket, new_worker: None })",
    ),
    Mutation(
        "a worker that takes a job does not signal the next one",
        JOBS,
        "self.signal_one(&mut state);\n            return Take::Job(job);",
        "return Take::Job(job);",
    ),
    Mutation(
        "a signalled worker never arrives",
        JOBS,
        "slot.signalled = false;\n            state.signal_pending = false;",
        "slot.signalled = false;",
    ),
    Mutation(
        "a spinning worker that comes too late keeps the signal",
        JOBS,
        "if signalled {\n                // Another worker has taken the job.\n"
        "                state.signal_pending = false;\n            }",
        "",
    ),
    Mutation(
        "a sleeping worker is not notified",
        JOBS,
        "self.signalled.notify_one();",
        "",
    ),
    Mutation(
        "stopping wakes one worker",
        JOBS,
        "self.signalled.notify_all();",
        "self.signalled.notify_one();",
    ),
    Mutation(
        "a worker sleeps without a look at the jobs",
        JOBS,
        "if !state.jobs.is_empty() || state.stopping {\n            return;",
        "if false {\n            return;",
    ),
    Mutation(
        "a worker that has spun sleeps without a look at the jobs",
        JOBS,
        "if !state.jobs.is_empty() || state.stopping {\n                slot.signalled",
        "if false {\n                slot.signalled",
    ),
    Mutation(
        "a worker that cannot run the job forgets its signal",
        JOBS,
        "return Take::Unsuited;",
        "slot.signalled = false;\n            return Take::Unsuited;",
    ),
)


def mutate(mutation: Mutation) -> str:
    """Return the file's text with the mutation.

    Raises:
        SystemExit: the text to replace is not there once.
    """
    text = (ROOT / mutation.file).read_text()
    if text.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file}: expected once: {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


def run_models() -> tuple[bool, list[str]]:
    """Run the models of the copy: whether they compile, and the names of those that fail."""
    cargo = ["cargo", "test", "--quiet", "--locked", "--manifest-path", "tests/loom/Cargo.toml"]
    environment = {
        **os.environ,
        "CARGO_TARGET_DIR": str(ROOT / "target" / "loom-mutations"),
        # Enough for all of them.
        "LOOM_MAX_PREEMPTIONS": "2",
    }
    built = subprocess.run([*cargo, "--no-run"], cwd=COPY, env=environment, check=False)
    if built.returncode:
        return False, []
    command = [*cargo, "models::"]
    done = subprocess.run(
        command, cwd=COPY, env=environment, check=False, capture_output=True, text=True
    )
    failed = {line.strip() for line in done.stdout.splitlines() if "::models::" in line}
    return True, sorted(name for name in failed if " " not in name)


def main() -> int:
    """Run the models on each mutation; 1 if one passes."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [m for m in MUTATIONS if word in m.what or word in m.file]
    shutil.rmtree(COPY, ignore_errors=True)
    for part in ("src", "tests/loom"):
        shutil.copytree(ROOT / part, COPY / part)
    survivors = 0
    for mutation in chosen:
        original = (ROOT / mutation.file).read_text()
        (COPY / mutation.file).write_text(mutate(mutation))
        compiles, failed = run_models()
        (COPY / mutation.file).write_text(original)
        if not compiles:
            raise SystemExit(f"{mutation.what}: does not compile")
        names = ", ".join(name.rpartition("::")[2] for name in failed) or "NO MODEL FAILS"
        print(f"{mutation.file}: {mutation.what}: {names}", flush=True)
        survivors += not failed
    passed = len(chosen) - survivors
    print(f"{passed} of {len(chosen)} mutations make a model fail")
    return int(survivors != 0)


if __name__ == "__main__":
    sys.exit(main())

//! How many operations of sockets one poll of a future may complete.
//!
//! A task whose peer sends fast enough always finds data and would never return to the loop. When
//! the budget is spent, operations are pending and wake their task, which runs on in the loop's next
//! turn. A future that is polled by another executor has no budget.

use std::cell::Cell;
use std::task::{Context, Poll};

/// The operations of one poll. A system call of each takes about a microsecond or, with large
/// buffers, some tens: other callbacks wait for a millisecond or so.
const OPERATIONS: u32 = 128;

const UNLIMITED: u32 = u32::MAX;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(UNLIMITED) };
}

/// Calls `poll`, which must not panic, with a new budget.
#[inline]
pub fn renewed<R>(poll: impl FnOnce() -> R) -> R {
    LEFT.with(|left| {
        let outer = left.replace(OPERATIONS);
        let polled = poll();
        left.set(outer);
        polled
    })
}

/// Pending if the budget is spent; the task is woken then.
#[inline]
pub fn poll_left(context: &mut Context<'_>) -> Poll<()> {
    if LEFT.get() > 0 {
        return Poll::Ready(());
    }
    context.waker().wake_by_ref();
    Poll::Pending
}

/// Counts one operation that did not have to wait.
#[inline]
pub fn spend() {
    let left = LEFT.get();
    if left != UNLIMITED {
        LEFT.set(left.saturating_sub(1));
    }
}

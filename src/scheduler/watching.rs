//! What other folders do with the watched descriptors of a loop.

use std::os::fd::RawFd;

use pyo3::prelude::*;

use super::watch::{Direction, Replaced, WatchRefused};
use super::{Runnable, RunnableKind, Scheduler};

impl Scheduler {
    /// Queues `runnable` whenever `fd` is ready; see [`Watches::set`](super::watch::Watches::set).
    ///
    /// # Errors
    /// As for [`Watches::set`](super::watch::Watches::set).
    #[inline]
    pub fn watch(
        &self,
        py: Python<'_>,
        fd: RawFd,
        direction: Direction,
        runnable: Runnable,
    ) -> Result<Replaced, WatchRefused> {
        self.core.watches.with(py, |watches| watches.set(fd, direction, runnable))
    }

    /// As [`Scheduler::watch`] for reading, but alone it does not force a poll while callbacks are
    /// ready; for one descriptor, and permanently.
    ///
    /// # Errors
    /// As for [`Watches::set`](super::watch::Watches::set).
    pub fn watch_in_background(
        &self,
        py: Python<'_>,
        fd: RawFd,
        runnable: Runnable,
    ) -> Result<Replaced, WatchRefused> {
        self.core.watches.with(py, |watches| watches.set_background(fd, runnable))
    }

    /// Stops watching one direction of `fd`. Returns the removed runnable.
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn unwatch(&self, py: Python<'_>, fd: RawFd, direction: Direction) -> Option<Runnable> {
        self.core.watches.with(py, |watches| watches.unset(fd, direction))
    }

    /// As [`Scheduler::unwatch`], but only if the runnable is one of `object`: the number may
    /// belong to another file by now, which another object watches.
    #[inline]
    #[must_use = "dropping a runnable may run Python: do it where that is safe"]
    pub fn unwatch_of<T>(
        &self,
        fd: RawFd,
        direction: Direction,
        object: &Bound<'_, T>,
    ) -> Option<Runnable> {
        self.core.watches.with(object.py(), |watches| watches.unset_of(fd, direction, object))
    }

    /// Whether a direction of `fd` is watched.
    pub fn is_watched(&self, py: Python<'_>, fd: RawFd, direction: Direction) -> bool {
        self.core.watches.with(py, |watches| watches.is_set(fd, direction))
    }

    /// The object to be queued when `fd` is ready in a direction, and its kind.
    #[inline]
    pub fn watcher<'py>(
        &self,
        py: Python<'py>,
        fd: RawFd,
        direction: Direction,
    ) -> Option<(&'static RunnableKind, Bound<'py, PyAny>)> {
        self.core.watches.with(py, |watches| {
            let runnable = watches.get(fd, direction)?;
            Some((runnable.kind, runnable.object.bind(py).clone()))
        })
    }

    /// A copy of the runnable to be queued when `fd` is ready in a direction, unless the watched file
    /// was closed.
    pub fn live_watch(&self, py: Python<'_>, fd: RawFd, direction: Direction) -> Option<Runnable> {
        self.core.watches.with(py, |watches| {
            let runnable = watches.get(fd, direction)?.clone_ref(py);
            (!watches.is_stale(fd)).then_some(runnable)
        })
    }

    /// The descriptor that has a runnable with exactly this object as its argument.
    pub fn watched_with_argument(&self, object: &Bound<'_, PyAny>) -> Option<RawFd> {
        self.core.watches.with(object.py(), |watches| watches.find_argument(object))
    }

    /// The descriptors that are watched.
    pub fn watched_descriptors(&self, py: Python<'_>) -> Vec<RawFd> {
        self.core.watches.with(py, |watches| watches.descriptors())
    }
}

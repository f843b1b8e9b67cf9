//! What tools that read the memory of tasks show of a coroutine that runs a Rust future: a frame with
//! its name. It is that of a coroutine of the interpreter's own which never runs, one for each name.

use std::collections::BTreeMap;

use pyo3::prelude::*;

use super::RustCoroutine;
use super::coroutine::FRAMES;
use crate::ffi::objects::object;
use crate::ffi::objects::process_state::Locked;

/// The coroutines that are kept: as many names as a program has functions, unless it makes names up.
const KEPT: usize = 256;

type Coroutines = BTreeMap<Box<str>, Py<PyAny>>;

/// They are never dropped.
static COROUTINES: Locked<Coroutines> = Locked::new(BTreeMap::new());

/// The coroutine that stands for `coroutine`, if that is one of this crate.
pub fn stand_in<'py>(coroutine: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = coroutine.py();
    if !object::is_exactly::<RustCoroutine>(coroutine) {
        return None;
    }
    let name = coroutine.cast::<RustCoroutine>().ok()?.get().shown_name();
    let find = |coroutines: &mut Coroutines| coroutines.get(name).map(|it| it.bind(py).clone());
    COROUTINES.with(py, find).or_else(|| make(py, name))
}

#[cold]
fn make<'py>(py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
    let has_room = |coroutines: &mut Coroutines| coroutines.len() < KEPT;
    if !COROUTINES.with(py, has_room) {
        return None;
    }
    // Nothing can be imported while the interpreter shuts down.
    let module = py.import(FRAMES).ok()?;
    let shown = module.call_method1("make_coroutine", (name,)).ok()?;
    let kept = shown.clone().unbind();
    let replaced = COROUTINES.with(py, |coroutines| coroutines.insert(name.into(), kept));
    if let Some(replaced) = replaced {
        // Python code that ran meanwhile has made one, which must not be dropped without this.
        let _ = replaced.call_method0(py, "close");
    }
    Some(shown)
}

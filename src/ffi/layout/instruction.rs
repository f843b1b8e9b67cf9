//! Determines which instruction the innermost Python frame of this thread executes.
//!
//! C code and Python code look up the same attributes, and for a few of them the right value
//! depends on which of the two does.

use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMapping};

/// An instruction by name, with its number in this interpreter.
pub struct Instruction {
    name: &'static CStr,
    number: AtomicI32,
}

const UNKNOWN: i32 = -1;
/// Greater than any instruction's number.
const ABSENT: i32 = 1 << 20;

/// `x.name`.
pub static LOAD_ATTR: Instruction = Instruction::named(c"LOAD_ATTR");
/// `x.name(...)` on 3.11.
pub static LOAD_METHOD: Instruction = Instruction::named(c"LOAD_METHOD");
/// `await x` and `yield from x`.
pub static SEND: Instruction = Instruction::named(c"SEND");

impl Instruction {
    const fn named(name: &'static CStr) -> Self {
        Self { name, number: AtomicI32::new(UNKNOWN) }
    }

    fn number(&self, py: Python<'_>) -> PyResult<i32> {
        let number = self.number.load(Ordering::Relaxed);
        if number != UNKNOWN {
            return Ok(number);
        }
        let all = py.import("opcode")?.getattr("opmap")?.cast_into::<PyMapping>()?;
        let name = self.name.to_str().unwrap_or_default();
        let number = if all.contains(name)? { all.get_item(name)?.extract()? } else { ABSENT };
        self.number.store(number, Ordering::Relaxed);
        Ok(number)
    }

    /// Whether the innermost Python frame is executing this instruction.
    pub fn is_executed(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(executed(py)? == Some(self.number(py)?))
    }
}

/// The number of the executing instruction; `None` without a frame that has started.
fn executed(py: Python<'_>) -> PyResult<Option<i32>> {
    // SAFETY: attached. The frame is borrowed from the thread state and does not run meanwhile; the
    // code object is a new reference.
    let (place, code) = unsafe {
        let frame = ffi::PyEval_GetFrame();
        if frame.is_null() {
            return Ok(None);
        }
        let code: Bound<'_, PyAny> = Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast());
        (ffi::PyFrame_GetLasti(frame), code)
    };
    let Ok(place) = usize::try_from(place) else { return Ok(None) };
    // `co_code` has the original instructions, without the specialised or traced ones.
    let code = code.getattr(intern!(py, "co_code"))?.cast_into::<PyBytes>()?;
    Ok(code.as_bytes().get(place).map(|number| i32::from(*number)))
}

/// Looks up the numbers in advance, since nothing can be imported while the interpreter shuts down.
pub fn probe(py: Python<'_>) -> PyResult<()> {
    [&LOAD_ATTR, &LOAD_METHOD, &SEND].into_iter().try_for_each(|one| one.number(py).map(drop))
}

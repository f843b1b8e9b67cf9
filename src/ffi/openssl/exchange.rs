//! BIOs that read and write Rust's memory, attached to an SSL object for the time of one call.
//!
//! Between two calls an SSL object has the BIOs that Python gave it, so whatever else uses the
//! object sees what it always has.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::library::{Bio, Library, Ssl};
use crate::ffi::objects::process_state::per_thread;

/// `BIO_TYPE_SOURCE_SINK`.
const SOURCE_SINK: c_int = 0x0400;
/// `BIO_FLAGS_READ | BIO_FLAGS_SHOULD_RETRY`.
const RETRY_READ: c_int = 0x01 | 0x08;
/// `BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY`.
const RETRY_FLAGS: c_int = 0x07 | 0x08;
/// `BIO_CTRL_FLUSH`.
const CONTROL_FLUSH: c_int = 11;

/// The two BIOs. They live as long as the process.
struct Pair {
    library: &'static Library,
    input: *mut Bio,
    output: *mut Bio,
}

// SAFETY: the pointers are used only with the GIL held, by the holder of `BUSY`.
unsafe impl Send for Pair {}
// SAFETY: as above.
unsafe impl Sync for Pair {}

static PAIR: PyOnceLock<Option<Pair>> = PyOnceLock::new();

/// For the functions of the BIOs.
static LIBRARY: OnceLock<&'static Library> = OnceLock::new();

per_thread!(static BUSY: bool = false);

/// What is left of the input.
struct Input {
    next: *const u8,
    left: usize,
}

impl Pair {
    fn get(py: Python<'_>) -> Option<&'static Self> {
        PAIR.get_or_init(py, || Self::make(Library::get(py)?)).as_ref()
    }

    #[cold]
    fn make(library: &'static Library) -> Option<Self> {
        // SAFETY: OpenSSL's functions with valid arguments; results are checked.
        unsafe {
            let kind = (library.BIO_get_new_index)();
            if kind < 0 {
                return None;
            }
            let method = (library.BIO_meth_new)(kind | SOURCE_SINK, c"ferroloop".as_ptr());
            if method.is_null() {
                return None;
            }
            let set = (library.BIO_meth_set_read)(method, read_input)
                & (library.BIO_meth_set_write)(method, write_output)
                & (library.BIO_meth_set_ctrl)(method, control);
            let (input, output) = ((library.BIO_new)(method), (library.BIO_new)(method));
            if set != 1 || input.is_null() || output.is_null() {
                return None;
            }
            (library.BIO_set_init)(input, 1);
            (library.BIO_set_init)(output, 1);
            LIBRARY.get_or_init(|| library);
            Some(Self { library, input, output })
        }
    }
}

/// The right to use the pair, which ends when this is dropped.
struct Use<'py>(Python<'py>, &'static Pair);

impl<'py> Use<'py> {
    /// `None` if there is no pair, or a call that uses it has called Python.
    #[inline]
    fn begin(py: Python<'py>) -> Option<Self> {
        let pair = Pair::get(py)?;
        let was_busy = BUSY.with(py, |busy| std::mem::replace(busy, true));
        (!was_busy).then_some(Self(py, pair))
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        BUSY.with(self.0, |busy| *busy = false);
    }
}

/// Calls `body` while `ssl` reads from `input`; `body` gets a function that tells how many bytes are
/// left of it. Returns its result and the number of bytes that
/// OpenSSL has taken, or `None`, without a call, if that is not possible now: the BIO of `ssl` has
/// data that comes first.
///
/// # Safety
/// `ssl` is a live SSL object of the library, which no other thread uses meanwhile, and `body` only
/// calls OpenSSL.
#[inline]
pub unsafe fn with_input<R>(
    py: Python<'_>,
    ssl: *mut Ssl,
    input: &[u8],
    body: impl FnOnce(&dyn Fn() -> usize) -> R,
) -> Option<(R, usize)> {
    let usage = Use::begin(py)?;
    let Pair { library, input: bio, .. } = *usage.1;
    let mut state = Input { next: input.as_ptr(), left: input.len() };
    let state = &raw mut state;
    // SAFETY: `ssl` is valid, and so is its BIO while it is attached. `SSL_set0_rbio()` takes over
    // one reference and drops that of the BIO before, hence one more for each. The data of the
    // BIO points to `state`, and is reset before that goes away.
    unsafe {
        let before = (library.SSL_get_rbio)(ssl);
        if before.is_null() || (library.BIO_ctrl_pending)(before) != 0 {
            return None;
        }
        (library.BIO_up_ref)(before);
        (library.BIO_up_ref)(bio);
        (library.BIO_set_data)(bio, state.cast());
        (library.SSL_set0_rbio)(ssl, bio);
        let left = || (*state).left;
        let result = body(&left);
        (library.SSL_set0_rbio)(ssl, before);
        (library.BIO_set_data)(bio, ptr::null_mut());
        Some((result, input.len() - left()))
    }
}

/// Calls `body` while `ssl` appends what it writes to `output`. Returns its result, or `None`,
/// without a call, if that is not possible now: the BIO of `ssl` has data that comes first.
///
/// # Safety
/// As [`with_input`].
#[inline]
pub unsafe fn with_output<R>(
    py: Python<'_>,
    ssl: *mut Ssl,
    output: &mut Vec<u8>,
    body: impl FnOnce() -> R,
) -> Option<R> {
    let usage = Use::begin(py)?;
    let Pair { library, output: bio, .. } = *usage.1;
    // SAFETY: as in `with_input`; `output` is not used by other code until the data is reset.
    unsafe {
        let before = (library.SSL_get_wbio)(ssl);
        if before.is_null() || (library.BIO_ctrl_pending)(before) != 0 {
            return None;
        }
        (library.BIO_up_ref)(before);
        (library.BIO_up_ref)(bio);
        (library.BIO_set_data)(bio, ptr::from_mut(output).cast());
        (library.SSL_set0_wbio)(ssl, bio);
        let result = body();
        (library.SSL_set0_wbio)(ssl, before);
        (library.BIO_set_data)(bio, ptr::null_mut());
        Some(result)
    }
}

/// `read()` of the BIO for input. It does not unwind: nothing in it panics.
///
/// # Safety
/// OpenSSL passes a BIO of ours and `size` bytes of memory.
unsafe extern "C" fn read_input(bio: *mut Bio, target: *mut c_char, size: c_int) -> c_int {
    let Some(library) = LIBRARY.get() else { return -1 };
    // SAFETY: a BIO of ours, whose data is null or points to the `Input` of the running call, which
    // has `left` bytes at `next`; the target has `size` bytes.
    unsafe {
        (library.BIO_clear_flags)(bio, RETRY_FLAGS);
        let state = (library.BIO_get_data)(bio).cast::<Input>();
        let wanted = usize::try_from(size).unwrap_or(0);
        if state.is_null() || (*state).left == 0 {
            (library.BIO_set_flags)(bio, RETRY_READ);
            return -1;
        }
        let count = wanted.min((*state).left);
        ptr::copy_nonoverlapping((*state).next, target.cast(), count);
        (*state).next = (*state).next.add(count);
        (*state).left -= count;
        count as c_int
    }
}

/// `write()` of the BIO for output. It does not unwind: without memory it aborts.
///
/// # Safety
/// OpenSSL passes a BIO of ours and `size` bytes of memory.
unsafe extern "C" fn write_output(bio: *mut Bio, data: *const c_char, size: c_int) -> c_int {
    let Some(library) = LIBRARY.get() else { return -1 };
    // SAFETY: a BIO of ours, whose data is null or points to the output of the running call, which
    // nothing else uses; the data has `size` bytes.
    unsafe {
        (library.BIO_clear_flags)(bio, RETRY_FLAGS);
        let output = (library.BIO_get_data)(bio).cast::<Vec<u8>>();
        let count = usize::try_from(size).unwrap_or(0);
        if output.is_null() || data.is_null() {
            return -1;
        }
        (*output).extend_from_slice(std::slice::from_raw_parts(data.cast(), count));
        count as c_int
    }
}

/// `ctrl()` of both: there is nothing to flush, and no other command is known.
///
/// # Safety
/// OpenSSL passes a BIO of ours.
unsafe extern "C" fn control(_: *mut Bio, command: c_int, _: c_long, _: *mut c_void) -> c_long {
    c_long::from(command == CONTROL_FLUSH)
}

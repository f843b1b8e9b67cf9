//! The functions of the OpenSSL that Python's `_ssl` uses, found at run time.
//!
//! This crate links no OpenSSL. Two copies may be in one process (a wheel may bring its own), and an
//! object of one must not be passed to the other: so a function is used only if the dynamic linker
//! finds the same one for `_ssl` as for the whole process.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// `SSL`.
#[repr(C)]
pub struct Ssl([u8; 0]);

/// `BIO`.
#[repr(C)]
pub struct Bio([u8; 0]);

/// `BIO_METHOD`.
#[repr(C)]
pub struct BioMethod([u8; 0]);

/// The signature of a BIO's `read()`.
pub type ReadFunction = unsafe extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int;
/// The signature of a BIO's `write()`.
pub type WriteFunction = unsafe extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int;
/// The signature of a BIO's `ctrl()`.
pub type ControlFunction =
    unsafe extern "C" fn(*mut Bio, c_int, std::ffi::c_long, *mut c_void) -> std::ffi::c_long;

/// Declares [`Library`] and how it is found.
macro_rules! functions {
    ($($(#[$meta:meta])* $name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions of libssl and libcrypto, by OpenSSL's names.
        #[expect(non_snake_case, reason = "OpenSSL's names")]
        pub struct Library {
            $($(#[$meta])* pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// # Safety
            /// `handle` is a handle of a shared object whose OpenSSL has these signatures.
            unsafe fn find(handle: *mut c_void) -> Option<Self> {
                Some(Self {
                    $($name: {
                        // SAFETY: a valid handle and name.
                        let address = unsafe { symbol(handle, concat!(stringify!($name), "\0")) }?;
                        // SAFETY: the signature is that of OpenSSL's documentation, and has not
                        // changed since 1.1.1.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $result)?,
                            >(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    OpenSSL_version_num: fn() -> std::ffi::c_ulong;
    SSL_get_ex_data: fn(*const Ssl, c_int) -> *mut c_void;
    SSL_read_ex: fn(*mut Ssl, *mut c_void, usize, *mut usize) -> c_int;
    SSL_write_ex: fn(*mut Ssl, *const c_void, usize, *mut usize) -> c_int;
    SSL_get_error: fn(*const Ssl, c_int) -> c_int;
    SSL_has_pending: fn(*const Ssl) -> c_int;
    SSL_in_init: fn(*const Ssl) -> c_int;
    SSL_get_rbio: fn(*const Ssl) -> *mut Bio;
    SSL_get_wbio: fn(*const Ssl) -> *mut Bio;
    SSL_set0_rbio: fn(*mut Ssl, *mut Bio);
    SSL_set0_wbio: fn(*mut Ssl, *mut Bio);
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
    BIO_meth_set_read: fn(*mut BioMethod, ReadFunction) -> c_int;
    BIO_meth_set_write: fn(*mut BioMethod, WriteFunction) -> c_int;
    BIO_meth_set_ctrl: fn(*mut BioMethod, ControlFunction) -> c_int;
    BIO_new: fn(*const BioMethod) -> *mut Bio;
    BIO_up_ref: fn(*mut Bio) -> c_int;
    BIO_set_init: fn(*mut Bio, c_int);
    BIO_set_data: fn(*mut Bio, *mut c_void);
    BIO_get_data: fn(*mut Bio) -> *mut c_void;
    BIO_set_flags: fn(*mut Bio, c_int);
    BIO_clear_flags: fn(*mut Bio, c_int);
    BIO_write: fn(*mut Bio, *const c_void, c_int) -> c_int;
    BIO_ctrl_pending: fn(*mut Bio) -> usize;
}

/// The address of a function for the object with this handle.
///
/// # Safety
/// `handle` is valid, and `name` ends with a zero byte.
unsafe fn symbol(handle: *mut c_void, name: &str) -> Option<*mut c_void> {
    let name = CStr::from_bytes_with_nul(name.as_bytes()).ok()?;
    // SAFETY: valid arguments.
    let (own, global) = unsafe {
        (libc::dlsym(handle, name.as_ptr()), libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()))
    };
    (!own.is_null() && (global.is_null() || global == own)).then_some(own)
}

impl Library {
    /// The library, if it was found. The first call imports `_ssl`.
    pub fn get(py: Python<'_>) -> Option<&'static Self> {
        static LIBRARY: PyOnceLock<Option<Library>> = PyOnceLock::new();
        LIBRARY.get_or_init(py, || Self::of_module(py).unwrap_or(None)).as_ref()
    }

    #[cold]
    fn of_module(py: Python<'_>) -> PyResult<Option<Self>> {
        let module = py.import("_ssl")?;
        // A module that is part of the interpreter has no file.
        let file: std::path::PathBuf = module.getattr("__file__")?.extract()?;
        let Ok(file) = CString::new(file.into_os_string().into_encoded_bytes()) else {
            return Ok(None);
        };
        // SAFETY: a valid path of an object that is loaded; a null handle is looked at below. It is
        // never closed, so the functions stay valid.
        let handle = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            return Ok(None);
        }
        // SAFETY: a valid handle of `_ssl`, which itself needs OpenSSL 1.1.1 or later.
        let Some(library) = (unsafe { Self::find(handle) }) else { return Ok(None) };
        // SAFETY: it takes no arguments.
        let version = unsafe { (library.OpenSSL_version_num)() };
        let expected: std::ffi::c_ulong = module.getattr("OPENSSL_VERSION_NUMBER")?.extract()?;
        let name: String = module.getattr("OPENSSL_VERSION")?.extract()?;
        // AWS-LC and BoringSSL call themselves "OpenSSL 1.1.1 (compatible; ...)".
        let is_openssl = name.starts_with("OpenSSL ") && !name.contains("compatible");
        Ok((version == expected && is_openssl).then_some(library))
    }
}

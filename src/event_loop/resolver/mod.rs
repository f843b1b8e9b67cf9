//! `getaddrinfo` and `getnameinfo`.
//!
//! What needs no look-up is answered at once, with the list that `socket.getaddrinfo` would
//! return:
//! * `literal.rs`: addresses and ports in their usual form, from the shape of libc's answer,
//!   which depends on everything but address and port and so is learned once;
//! * other literals (scope identifiers, `127.1`, no host at all): by libc, told not to look up.
//!
//! Names are looked up by libc on a thread of the pool, without Python: the loop's thread takes
//! the arguments apart (`question.rs`) and makes the list (`answer.rs`). Arguments out of the
//! ordinary are left to `_socket.getaddrinfo`, which the pool calls. If a program has replaced
//! `socket.getaddrinfo` then its function is called, on the pool, as asyncio does it.

#![forbid(unsafe_code)]

mod answer;
mod literal;
mod modules;
mod question;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::EventLoop;
use crate::executor::{Call, DetachedWork};
use crate::handle::CallbackArguments;
use crate::interop::imports;
use crate::sys::resolve::{
    AI_NUMERICHOST, AI_NUMERICSERV, NI_NUMERICHOST, NI_NUMERICSERV, look_up,
};
use literal::Shape;
use modules::Functions;

/// The arguments of one call, as they were given.
struct Request<'a, 'py> {
    host: &'a Bound<'py, PyAny>,
    port: &'a Bound<'py, PyAny>,
    family: &'a Bound<'py, PyAny>,
    r#type: &'a Bound<'py, PyAny>,
    proto: &'a Bound<'py, PyAny>,
    flags: &'a Bound<'py, PyAny>,
}

impl<'py> Request<'_, 'py> {
    fn py(&self) -> Python<'py> {
        self.host.py()
    }

    fn shape(&self) -> Option<Shape> {
        Some(Shape {
            family: self.family.extract().ok()?,
            r#type: self.r#type.extract().ok()?,
            proto: self.proto.extract().ok()?,
            flags: self.flags.extract().ok()?,
        })
    }

    /// Positional arguments for `getaddrinfo`, with `flags` in place of those given.
    fn arguments(&self, flags: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        let all = [self.host, self.port, self.family, self.r#type, self.proto, flags];
        PyTuple::new(self.py(), all)
    }

    /// `sys.audit("socket.getaddrinfo", ...)`, as `_socket` does it.
    fn audit(&self, shape: &Shape) -> PyResult<()> {
        let py = self.py();
        let event = intern!(py, "socket.getaddrinfo");
        let Shape { family, r#type, proto, .. } = shape;
        let arguments = (event, self.host, self.port, family, r#type, proto);
        imports::audit(py)?.call1(arguments)?;
        Ok(())
    }

    /// libc's answer without any look-up. None if it needs one, or is an error, which is then
    /// left to the complete call.
    fn resolve_literal(
        &self,
        functions: &Functions<'py>,
        flags: i32,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !literal::may_be_numeric(self.host, self.port) {
            return Ok(None);
        }
        let flags = PyInt::new(self.py(), flags | AI_NUMERICHOST | AI_NUMERICSERV);
        match functions.getaddrinfo.call1(self.arguments(&flags)?) {
            Ok(entries) => answer::with_enums(entries).map(Some),
            Err(_) => Ok(None),
        }
    }
}

#[pymethods]
impl EventLoop {
    /// The answer of `getaddrinfo()` as a list, or a future for it.
    fn _getaddrinfo<'py>(
        slf: &Bound<'py, Self>,
        host: Bound<'py, PyAny>,
        port: Bound<'py, PyAny>,
        family: Bound<'py, PyAny>,
        r#type: Bound<'py, PyAny>,
        proto: Bound<'py, PyAny>,
        flags: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let scheduler = slf.as_super().get();
        scheduler.check_open(py)?;
        slf.get().check_executor(py)?;
        let request = Request {
            host: &host,
            port: &port,
            family: &family,
            r#type: &r#type,
            proto: &proto,
            flags: &flags,
        };
        let arguments = || request.arguments(&flags);
        if scheduler.debug.get(py) {
            let timed = slf.getattr(intern!(py, "_getaddrinfo_debug"))?;
            return run_in_executor(slf, timed, arguments()?);
        }
        let Some(functions) = modules::genuine(py)? else {
            return run_in_executor(slf, modules::current_getaddrinfo(py)?, arguments()?);
        };
        let shape = request.shape();
        if let Some(shape) = shape {
            if let Some(found) = literal::resolve(&request, &shape, &functions)? {
                return Ok(found);
            }
            if let Some(found) = request.resolve_literal(&functions, shape.flags)? {
                return Ok(found);
            }
        }
        let Some(pool) = Self::native_pool(slf)? else {
            return run_in_executor(slf, modules::current_getaddrinfo(py)?, arguments()?);
        };
        if let Some((shape, question)) =
            shape.and_then(|shape| Some((shape, question::of(&host, &port, &shape)?)))
        {
            request.audit(&shape)?;
            scheduler.check_open(py)?; // A hook may have closed it.
            let work: DetachedWork = Box::new(move || {
                let answer = look_up(&question);
                Box::new(move |py| answer::to_python(py, answer))
            });
            return Ok(pool.get().run_detached(slf.as_super(), work)?.into_any());
        }
        let arguments = CallbackArguments::from_tuple(arguments()?);
        let call = Call::Converted(functions.getaddrinfo.unbind(), arguments, answer::with_enums);
        Ok(pool.get().run(slf.as_super(), call)?.into_any())
    }

    /// The answer of `getnameinfo()` as a tuple, or a future for it.
    fn _getnameinfo<'py>(
        slf: &Bound<'py, Self>,
        sockaddr: Bound<'py, PyAny>,
        flags: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.as_super().get().check_open(py)?;
        slf.get().check_executor(py)?;
        let function = modules::current_getnameinfo(py)?;
        let numeric = NI_NUMERICHOST | NI_NUMERICSERV;
        if flags.extract::<i32>().is_ok_and(|flags| flags & numeric == numeric)
            && modules::is_genuine_getnameinfo(&function)?
        {
            // Both are taken from the address: nothing is looked up.
            return function.call1((sockaddr, flags));
        }
        run_in_executor(slf, function, (sockaddr, flags).into_pyobject(py)?)
    }
}

/// `loop.run_in_executor(None, function, *arguments)`.
fn run_in_executor<'py>(
    slf: &Bound<'py, EventLoop>,
    function: Bound<'py, PyAny>,
    arguments: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let none = py.None().into_bound(py);
    let all: Vec<_> = [none, function].into_iter().chain(arguments.iter()).collect();
    slf.call_method1(intern!(py, "run_in_executor"), PyTuple::new(py, all)?)
}

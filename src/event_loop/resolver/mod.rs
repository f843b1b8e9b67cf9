//! `getaddrinfo` and `getnameinfo`.
//!
//! Literal addresses are resolved at once, to the list that `socket.getaddrinfo` would return:
//! * `literal.rs`: addresses and ports in their usual form. Apart from address and port, libc's
//!   result depends only on the hints, so libc is called once for each combination of hints;
//! * other literals (scope identifiers, `127.1`, no host at all): by libc, with flags that forbid
//!   a lookup.
//!
//! libc looks up names in a thread of the default executor, without Python: the loop's thread
//! converts the arguments (`question.rs`) and the result (`answer.rs`). Unusual arguments are left
//! to `_socket.getaddrinfo`, which the executor calls. If the program has replaced
//! `socket.getaddrinfo` (`modules.rs`), the executor calls its function, as asyncio does.

mod answer;
mod literal;
mod modules;
mod question;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::EventLoop;
use crate::executor::{Call, DetachedWork};
use crate::ffi::objects::object::HasBase;
use crate::handle::CallbackArguments;
use crate::interop::imports;
use crate::sys::resolve::{
    AI_NUMERICHOST, AI_NUMERICSERV, NI_NUMERICHOST, NI_NUMERICSERV, look_up,
};
use literal::Hints;
use modules::Functions;

/// The arguments of one call of `getaddrinfo()`.
struct Lookup<'a, 'py> {
    host: &'a Bound<'py, PyAny>,
    port: &'a Bound<'py, PyAny>,
    family: &'a Bound<'py, PyAny>,
    r#type: &'a Bound<'py, PyAny>,
    proto: &'a Bound<'py, PyAny>,
    flags: &'a Bound<'py, PyAny>,
}

impl<'py> Lookup<'_, 'py> {
    fn py(&self) -> Python<'py> {
        self.host.py()
    }

    fn hints(&self) -> Option<Hints> {
        Some(Hints {
            family: self.family.extract().ok()?,
            r#type: self.r#type.extract().ok()?,
            proto: self.proto.extract().ok()?,
            flags: self.flags.extract().ok()?,
        })
    }

    /// The positional arguments for `getaddrinfo`, with other flags.
    fn arguments(&self, flags: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyTuple>> {
        let all = [self.host, self.port, self.family, self.r#type, self.proto, flags];
        PyTuple::new(self.py(), all)
    }

    /// Calls `sys.audit("socket.getaddrinfo", ...)`, as `_socket` does.
    fn audit(&self, hints: &Hints) -> PyResult<()> {
        let py = self.py();
        let event = intern!(py, "socket.getaddrinfo");
        let Hints { family, r#type, proto, .. } = hints;
        let arguments = (event, self.host, self.port, family, r#type, proto);
        imports::audit(py)?.call1(arguments)?;
        Ok(())
    }

    /// libc's result without any lookup. None if it would need one, or fails: then the complete
    /// call follows.
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
    /// The result of `getaddrinfo()` as a list, or a future for it.
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
        let scheduler = slf.base();
        scheduler.check_open(py)?;
        slf.get().check_executor(py)?;
        let lookup = Lookup {
            host: &host,
            port: &port,
            family: &family,
            r#type: &r#type,
            proto: &proto,
            flags: &flags,
        };
        let arguments = || lookup.arguments(&flags);
        if scheduler.is_debug(py) {
            let timed = slf.getattr(intern!(py, "_getaddrinfo_debug"))?;
            return run_in_executor(slf, timed, arguments()?);
        }
        let Some(functions) = modules::genuine(py)? else {
            return run_in_executor(slf, modules::current_getaddrinfo(py)?, arguments()?);
        };
        let hints = lookup.hints();
        if let Some(hints) = hints {
            if let Some(found) = literal::resolve(&lookup, &hints, &functions)? {
                return Ok(found);
            }
            if let Some(found) = lookup.resolve_literal(&functions, hints.flags)? {
                return Ok(found);
            }
        }
        let Some(pool) = Self::native_pool(slf)? else {
            return run_in_executor(slf, modules::current_getaddrinfo(py)?, arguments()?);
        };
        if let Some((hints, question)) =
            hints.and_then(|hints| Some((hints, question::of(&host, &port, &hints)?)))
        {
            lookup.audit(&hints)?;
            scheduler.check_open(py)?; // an audit hook may have closed the loop
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

    /// The result of `getnameinfo()` as a tuple, or a future for it.
    fn _getnameinfo<'py>(
        slf: &Bound<'py, Self>,
        sockaddr: Bound<'py, PyAny>,
        flags: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        slf.base().check_open(py)?;
        slf.get().check_executor(py)?;
        let function = modules::current_getnameinfo(py)?;
        let numeric = NI_NUMERICHOST | NI_NUMERICSERV;
        if flags.extract::<i32>().is_ok_and(|flags| flags & numeric == numeric)
            && modules::is_genuine_getnameinfo(&function)?
        {
            // Host and port are formatted from the address, without a lookup.
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

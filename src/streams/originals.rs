//! asyncio's stream classes, and whether a program has replaced one of their methods.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

use crate::ffi::attribute;
use crate::ffi::layout::class_version::class_version;
use crate::ffi::objects::process_state::Published;
use crate::interop::imports;

/// A class of `asyncio.streams`, and the methods of it whose code is bypassed.
pub(super) struct OriginalClass {
    pub class: Py<PyType>,
    /// What the lookup of a name finds.
    methods: Vec<(Py<PyString>, Option<Py<PyAny>>)>,
    /// The version of the class when it was checked last.
    version: Published<u32>,
}

impl OriginalClass {
    /// `None` if the program has replaced one of the methods already.
    fn find(
        class: &Bound<'_, PyAny>,
        file: &Bound<'_, PyAny>,
        names: &[(&str, &str)],
    ) -> PyResult<Option<Self>> {
        let py = class.py();
        let class = class.cast::<PyType>()?;
        let mut methods = Vec::new();
        for (definer, name) in names {
            let name = PyString::intern(py, name);
            let Some(method) = attribute::lookup(class, &name) else { return Ok(None) };
            let function = method.getattr_opt("fget")?.unwrap_or_else(|| method.clone());
            let Some(code) = function.getattr_opt("__code__")? else { return Ok(None) };
            let expected = format!("{definer}.{name}");
            if !code.getattr("co_filename")?.eq(file)?
                || !code.getattr("co_qualname")?.eq(expected)?
            {
                return Ok(None);
            }
            methods.push((name.unbind(), Some(method.unbind())));
        }
        let object = py.get_type::<PyAny>();
        for hook in ["__getattribute__", "__setattr__", "__getattr__"] {
            let name = PyString::intern(py, hook);
            methods.push((
                name.clone().unbind(),
                attribute::lookup(&object, &name).map(Bound::unbind),
            ));
        }
        let class = class.clone().unbind();
        Ok(Some(Self { class, methods, version: Published::new(0) }))
    }

    /// Whether the methods are asyncio's. Runs no Python code.
    #[inline]
    pub fn is_original(&self, py: Python<'_>) -> bool {
        let version = class_version(&self.class, py);
        (version != 0 && version == self.version.get(py)) || self.check(py)
    }

    #[cold]
    fn check(&self, py: Python<'_>) -> bool {
        let class = self.class.bind(py);
        let is_original = self.methods.iter().all(|(name, method)| {
            let found = attribute::lookup(class, name.bind(py));
            match (found, method) {
                (Some(found), Some(method)) => found.is(method),
                (found, method) => found.is_none() && method.is_none(),
            }
        });
        // The lookups have given the class its version.
        self.version.set(py, if is_original { class_version(&self.class, py) } else { 0 });
        is_original
    }

    /// asyncio's method of this name.
    pub fn method<'py>(&self, py: Python<'py>, name: &str) -> Option<&Bound<'py, PyAny>> {
        let found = self.methods.iter().find(|(known, _)| known.bind(py) == name);
        found.and_then(|(_, method)| method.as_ref()).map(|method| method.bind(py))
    }
}

/// asyncio's classes.
pub(super) struct Originals {
    pub reader: OriginalClass,
    pub writer: OriginalClass,
    pub protocol: OriginalClass,
}

impl Originals {
    /// `None` if the program had replaced one of the methods before it first used a stream.
    #[inline]
    pub fn get(py: Python<'_>) -> Option<&Self> {
        static ORIGINALS: PyOnceLock<Option<Originals>> = PyOnceLock::new();
        ORIGINALS.get_or_init(py, || Self::find(py).unwrap_or(None)).as_ref()
    }

    #[cold]
    fn find(py: Python<'_>) -> PyResult<Option<Self>> {
        let file = py.import("asyncio.streams")?.getattr("__file__")?;
        let reader = OriginalClass::find(
            imports::stream_reader(py)?,
            &file,
            &[
                ("StreamReader", "read"),
                ("StreamReader", "readexactly"),
                ("StreamReader", "readuntil"),
                ("StreamReader", "readline"),
                ("StreamReader", "exception"),
                ("StreamReader", "at_eof"),
                ("StreamReader", "feed_data"),
                ("StreamReader", "_wakeup_waiter"),
                ("StreamReader", "_wait_for_data"),
            ],
        )?;
        let writer = OriginalClass::find(
            imports::stream_writer(py)?,
            &file,
            &[("StreamWriter", "drain"), ("StreamWriter", "write")],
        )?;
        let protocol = OriginalClass::find(
            imports::stream_reader_protocol(py)?,
            &file,
            &[
                ("StreamReaderProtocol", "data_received"),
                ("StreamReaderProtocol", "_stream_reader"),
                ("FlowControlMixin", "_drain_helper"),
            ],
        )?;
        let all = reader.zip(writer).zip(protocol);
        Ok(all.map(|((reader, writer), protocol)| Self { reader, writer, protocol }))
    }
}

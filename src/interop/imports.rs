//! The Python objects that the crate imports, each looked up once.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

macro_rules! imports {
    (load with $load:ident; $($(#[$doc:meta])* $name:ident = $module:literal : $attribute:literal;)*) => {
        $crate::interop::imports::imports! {
            $($(#[$doc])* $name = $module : $attribute;)*
        }

        /// Imports them all: nothing can be imported while the interpreter shuts down.
        pub fn $load(py: Python<'_>) -> PyResult<()> {
            $($(#[$doc])* $name(py)?;)*
            Ok(())
        }
    };
    ($($(#[$doc:meta])* $name:ident = $module:literal : $attribute:literal;)*) => {$(
        $(#[$doc])*
        #[doc = concat!("`", $module, ".", $attribute, "`.")]
        pub fn $name(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
            static CELL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            CELL.import(py, $module, $attribute)
        }
    )*};
}
pub(crate) use imports;

imports! {
    load with load;
    asyncio_future = "asyncio.futures": "Future";
    asyncio_task = "asyncio.tasks": "Task";
    names_in_futures = "asyncio.futures": "__dict__";
    names_in_tasks = "asyncio.tasks": "__dict__";
    asyncio_handle = "asyncio.events": "Handle";
    asyncio_timer_handle = "asyncio.events": "TimerHandle";
    #[cfg(Py_3_14)]
    threadsafe_handle = "asyncio.events": "_ThreadSafeHandle";
    base_event_loop = "asyncio.base_events": "BaseEventLoop";
    format_handle = "asyncio.base_events": "_format_handle";
    get_event_loop = "asyncio.events": "get_event_loop";
    get_running_loop = "asyncio.events": "_get_running_loop";
    set_running_loop = "asyncio.events": "_set_running_loop";
    // The last ten frames, which handles keep.
    extract_stack = "asyncio.format_helpers": "extract_stack";
    // All frames with their source lines, which futures keep.
    extract_whole_stack = "traceback": "extract_stack";
    format_callback_source = "asyncio.format_helpers": "_format_callback_source";
    future_repr = "asyncio.base_futures": "_future_repr";
    task_repr = "asyncio.base_tasks": "_task_repr";
    task_get_stack = "asyncio.base_tasks": "_task_get_stack";
    task_print_stack = "asyncio.base_tasks": "_task_print_stack";
    iscoroutine = "asyncio.coroutines": "iscoroutine";
    cancelled_error = "asyncio.exceptions": "CancelledError";
    invalid_state_error = "asyncio.exceptions": "InvalidStateError";
    object_class = "builtins": "object";
    isgenerator = "inspect": "isgenerator";
    get_profile = "sys": "getprofile";
    get_asyncgen_hooks = "sys": "get_asyncgen_hooks";
    set_asyncgen_hooks = "sys": "set_asyncgen_hooks";
    ensure_future = "asyncio.tasks": "ensure_future";
    wrap_future = "asyncio.futures": "wrap_future";
    convert_future_exception = "asyncio.futures": "_convert_future_exc";
    concurrent_future = "concurrent.futures": "Future";
    heappop = "heapq": "heappop";
    partial = "functools": "partial";
    address_family = "socket": "AddressFamily";
    socket_kind = "socket": "SocketKind";
    gaierror = "socket": "gaierror";
    audit = "sys": "audit";
    generic_alias = "types": "GenericAlias";
    strerror = "os": "strerror";
    main_thread = "threading": "main_thread";
    set_wakeup_fd = "signal": "set_wakeup_fd";
    get_ident = "_thread": "get_ident";
    set_result_unless_cancelled = "asyncio.futures": "_set_result_unless_cancelled";
    buffered_protocol = "asyncio.protocols": "BufferedProtocol";
    transport_socket = "asyncio.trsock": "TransportSocket";
    socket_transport = "asyncio.selector_events": "_SelectorSocketTransport";
    datagram_transport = "asyncio.selector_events": "_SelectorDatagramTransport";
    read_pipe_transport = "asyncio.unix_events": "_UnixReadPipeTransport";
    write_pipe_transport = "asyncio.unix_events": "_UnixWritePipeTransport";
    stream_reader = "asyncio.streams": "StreamReader";
    stream_writer = "asyncio.streams": "StreamWriter";
    stream_reader_protocol = "asyncio.streams": "StreamReaderProtocol";
    deque = "collections": "deque";
    sendfile_mode = "asyncio.constants": "_SendfileMode";
    constants = "asyncio": "constants";
    unix_event_loop = "asyncio": "SelectorEventLoop";
    selector_event_loop = "asyncio.selector_events": "BaseSelectorEventLoop";
    logger = "asyncio.log": "logger";
    socket_class = "socket": "socket";
    ssl_protocol = "asyncio.sslproto": "SSLProtocol";
    ssl_transport = "asyncio.sslproto": "_SSLProtocolTransport";
    warn = "warnings": "warn";
    warn_explicit = "warnings": "warn_explicit";
}

#[cfg(Py_3_14)]
imports! {
    load with load_for_3_14;
    enter_task = "asyncio.tasks": "_enter_task";
    swap_current_task = "asyncio.tasks": "_swap_current_task";
    current_task = "asyncio.tasks": "current_task";
    add_to_awaited_by = "asyncio.futures": "future_add_to_awaited_by";
    discard_from_awaited_by = "asyncio.futures": "future_discard_from_awaited_by";
    // The public name warns.
    iscoroutinefunction = "asyncio.coroutines": "_iscoroutinefunction";
}

#[cfg(not(Py_3_14))]
imports! {
    load with load_before_3_14;
    iscoroutinefunction = "asyncio.coroutines": "iscoroutinefunction";
}

#[cfg(Py_3_12)]
imports! {
    load with load_for_3_12;
    eager_task_factory = "asyncio.tasks": "eager_task_factory";
}

/// The module `asyncio.base_events`, for attributes that tests and tools replace (`logger`).
pub fn base_events(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("asyncio.base_events")
}

/// The module `sys`.
pub fn sys(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("sys")
}

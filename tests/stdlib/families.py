"""What is run from test.test_asyncio and how, and what is left out and why.

MODULES[test_module][class] is one of
  ASIS              run the class as it is: it gets its loop from
                    asyncio.new_event_loop(), asyncio.run() or a Runner, which
                    the worker has made yield the loop under test
  Loop(base...)     a new class on these bases whose loop-making method
                    returns the loop under test
  LeftOut(reason)   not run
A class that is not listed here (from a newer Python) is run ASIS.

LEFT_OUT[test_module][class][test] = reason, for single tests.  The rule: a
test is left out only because of what it reads, replaces or mocks, never
because a loop fails it.
"""


class Loop:
    """A class built on `bases`; `how` says which hook makes the loop."""

    def __init__(self, *bases, how):
        self.bases, self.how = bases, how


class LeftOut:
    def __init__(self, reason):
        self.reason = reason


ASIS = object()

# --- reasons ---------------------------------------------------------------
UNIT = "unit test of a stdlib class with a mock loop: no event loop under test"
PRIV = "reads, calls or replaces private members of BaseEventLoop/its selector"
MOCKSOCK = (
    "replaces the socket module inside asyncio.base_events/unix_events "
    "by a mock: a native loop makes the system calls itself"
)
MOCKCONN = (
    "replaces loop.sock_connect by a mock and then connects to public "
    "addresses: tests how BaseEventLoop.create_connection is written"
)
MOCKLOOP = "defines its own BaseEventLoop subclass with a mock selector"
MOCKCONN2 = (
    "replaces loop.sock_connect by a mock that fails: tests how "
    "BaseEventLoop.create_datagram_endpoint is written"
)
NOSENDFILE = "asserts that BaseSelectorEventLoop has no native sendfile"
SRVPRIV = "asserts on the private Server._sockets and Server._waiters"
TRPRIV = "reads or sets private members of a stdlib transport"
STDTASK = (
    "the stdlib Task/Future of another flavour on a simulated clock "
    "(test_utils.TestLoop); CTask_CFuture_Tests and "
    "PyTask_PyFuture_Tests stand for them here, and --task-future runs "
    "the family with LOOPMODULE.Task/Future"
)
STDFUT = (
    "stdlib Future on a simulated clock (test_utils.TestLoop), no event "
    "loop under test; --task-future runs the family with "
    "LOOPMODULE.Future"
)
WATCH = "stdlib child watchers (deprecated in 3.12, gone in 3.14)"
POPEN = "mocks subprocess.Popen: assumes that the loop spawns by it"
SEL = (
    "variant of a mixin for one stdlib selector/proactor; the mixin is run "
    "once on the loop under test"
)
STOCKLOOP = "asserts that the loop is the stock SelectorEventLoop"
PYRUN = (
    "swaps asyncio's running-loop slot for the pure-Python one; native "
    "loops bind the C one, which TestCGetEventLoop covers"
)

# --- whole modules ---------------------------------------------------------
LEFT_OUT_MODULES = {
    "test_selector_events": "private internals of BaseSelectorEventLoop and "
    "its transports, on mock sockets and selectors",
    "test_proactor_events": "private internals of the Windows proactor loop",
    "test_windows_events": "Windows only",
    "test_windows_utils": "Windows only",
    "test_protocols": "asyncio.protocols classes only, no loop",
    "test_transports": "asyncio.transports classes only, no loop",
    "test_tools": "the `python -m asyncio` task inspector (3.14), which reads "
    "the stdlib Task's memory layout",
    "test_graph": "asyncio.capture_call_graph on stdlib Tasks (3.14); needs "
    "private Task/Future fields",
}

_SUBCLASS_SETUP = "setup"  # setUp makes self.loop
_CREATE = "create_event_loop"  # create_event_loop()
_NEW = "new_loop"  # new_loop()

MODULES = {
    "test_base_events": {
        "BaseEventLoopTests": Loop("BaseEventLoopTests", how=_SUBCLASS_SETUP),
        "BaseEventLoopWithSelectorTests": Loop(
            "BaseEventLoopWithSelectorTests", how=_SUBCLASS_SETUP
        ),
        "BaseLoopSockSendfileTests": Loop("BaseLoopSockSendfileTests", how="sendfile_setup"),
        "RunningLoopTests": ASIS,
        "BaseEventTests": LeftOut("unit tests of base_events._ipaddr_info"),
        "TestSelectorUtils": LeftOut("unit test of base_events._set_nodelay"),
    },
    "test_buffered_proto": {
        "BufferedProtocolTests": Loop("BaseTestBufferedProtocol", "unittest.TestCase", how=_NEW),
        "BufferedProtocolSelectorTests": LeftOut(SEL),
        "BufferedProtocolProactorTests": LeftOut(SEL),
    },
    "test_context": {},
    "test_eager_task_factory": {},
    "test_events": {
        "EventLoopTests": Loop(
            "EventLoopTestsMixin", "SubprocessTestsMixin", "test_utils.TestCase", how=_CREATE
        ),
        "EPollEventLoopTests": LeftOut(SEL),
        "PollEventLoopTests": LeftOut(SEL),
        "SelectEventLoopTests": LeftOut(SEL),
        "KqueueEventLoopTests": LeftOut(SEL),
        "ProactorEventLoopTests": LeftOut(SEL),
        "TimerTests": LeftOut(UNIT),
        "TestPyGetEventLoop": LeftOut(PYRUN),
    },
    "test_free_threading": {},
    "test_futures": {
        "DuckTests": LeftOut(STDFUT),
        "CFutureTests": LeftOut(STDFUT),
        "CSubFutureTests": LeftOut(STDFUT),
        "PyFutureTests": LeftOut(STDFUT),
        "CFutureDoneCallbackTests": LeftOut(STDFUT),
        "CSubFutureDoneCallbackTests": LeftOut(STDFUT),
        "PyFutureDoneCallbackTests": LeftOut(STDFUT),
        "PyFutureInheritanceTests": LeftOut(STDFUT),
        "CFutureInheritanceTests": LeftOut(STDFUT),
    },
    "test_futures2": {},
    "test_locks": {},
    "test_pep492": {
        "LockTests": Loop("LockTests", how=_SUBCLASS_SETUP),
        "StreamReaderTests": Loop("StreamReaderTests", how=_SUBCLASS_SETUP),
        "CoroutineTests": Loop("CoroutineTests", how=_SUBCLASS_SETUP),
    },
    "test_queues": {},
    "test_runners": {
        "RunTests": Loop("RunTests", how="runner_loop"),
        "RunnerTests": Loop("RunnerTests", how="runner_loop"),
    },
    "test_sendfile": {
        "SendfileTests": Loop("SendfileTestsBase", "test_utils.TestCase", how=_CREATE),
        "EPollEventLoopTests": LeftOut(SEL),
        "PollEventLoopTests": LeftOut(SEL),
        "SelectEventLoopTests": LeftOut(SEL),
        "KqueueEventLoopTests": LeftOut(SEL),
        "ProactorEventLoopTests": LeftOut(SEL),
    },
    "test_server": {
        "StartServerTests": Loop("SelectorStartServerTests", how=_NEW),
        "SelectorStartServerTests": LeftOut(SEL),
        "ProactorStartServerTests": LeftOut(SEL),
    },
    "test_server_context": {},
    "test_sock_lowlevel": {
        "SockTests": Loop("BaseSockTestsMixin", "test_utils.TestCase", how=_CREATE),
        "EPollEventLoopTests": LeftOut(SEL),
        "PollEventLoopTests": LeftOut(SEL),
        "SelectEventLoopTests": LeftOut(SEL),
        "KqueueEventLoopTests": LeftOut(SEL),
        "ProactorEventLoopTests": LeftOut(SEL),
    },
    "test_ssl": {},
    "test_sslproto": {
        "StartTLSTests": Loop("BaseStartTLS", "unittest.TestCase", how=_NEW),
        "SelectorStartTLSTests": LeftOut(SEL),
        "ProactorStartTLSTests": LeftOut(SEL),
    },
    "test_staggered": {},
    "test_streams": {},
    "test_subprocess": {
        "SubprocessTests": Loop("SubprocessMixin", "test_utils.TestCase", how=_SUBCLASS_SETUP),
        "SubprocessTransportTests": LeftOut(
            "unit tests of asyncio.base_subprocess on a mock process"
        ),
        "SubprocessThreadedWatcherTests": LeftOut(WATCH),
        "SubprocessMultiLoopWatcherTests": LeftOut(WATCH),
        "SubprocessSafeWatcherTests": LeftOut(WATCH),
        "SubprocessFastWatcherTests": LeftOut(WATCH),
        "SubprocessPidfdWatcherTests": LeftOut(WATCH),
        "SubprocessProactorTests": LeftOut(SEL),
        "MultiLoopChildWatcherTests": LeftOut(WATCH),
    },
    "test_taskgroups": {},
    "test_tasks": {
        "CTask_CFuture_SubclassTests": LeftOut(STDTASK),
        "CTaskSubclass_PyFuture_Tests": LeftOut(STDTASK),
        "PyTask_CFutureSubclass_Tests": LeftOut(STDTASK),
        "CTask_PyFuture_Tests": LeftOut(STDTASK),
        "PyTask_CFuture_Tests": LeftOut(STDTASK),
        "PyTask_PyFuture_SubclassTests": LeftOut(STDTASK),
        "PyIntrospectionTests": LeftOut(UNIT),
        "CIntrospectionTests": LeftOut(UNIT),
        "PyCurrentLoopTests": LeftOut(STDTASK),
        "CCurrentLoopTests": LeftOut(STDTASK),
        "FutureGatherTests": LeftOut(
            "asyncio.gather on test_utils.TestLoop, whose privates it reads: "
            "no event loop under test"
        ),
        "CoroutineGatherTests": LeftOut(
            "asyncio.gather on test_utils.TestLoop, whose privates it reads: "
            "no event loop under test"
        ),
    },
    "test_threads": {},
    "test_timeouts": {},
    "test_unix_events": {
        "UnixSocketTests": Loop("SelectorEventLoopUnixSocketTests", how=_SUBCLASS_SETUP),
        "SelectorEventLoopUnixSocketTests": LeftOut(SEL),
        "SelectorEventLoopSignalTests": LeftOut(
            "mocks the signal module inside asyncio.unix_events and reads "
            "loop._signal_handlers; real signals are in test_events"
        ),
        "SelectorEventLoopUnixSockSendfileTests": LeftOut(
            "calls the private loop._sock_sendfile_native[_impl] with mocks; "
            "the public call is in test_sendfile and test_base_events"
        ),
        "UnixReadPipeTransportTests": LeftOut(
            "unit tests of the private _UnixReadPipeTransport on mocks; real "
            "pipes are in test_events"
        ),
        "UnixWritePipeTransportTests": LeftOut(
            "unit tests of the private _UnixWritePipeTransport on mocks; real "
            "pipes are in test_events"
        ),
        "AbstractChildWatcherTests": LeftOut(WATCH),
        "BaseChildWatcherTests": LeftOut(WATCH),
        "SafeChildWatcherTests": LeftOut(WATCH),
        "FastChildWatcherTests": LeftOut(WATCH),
        "PolicyTests": LeftOut(WATCH),
        "TestFunctional": ASIS,
        "TestFork": ASIS,
    },
    "test_waitfor": {},
}

# --- single tests ----------------------------------------------------------
_SEND_NATIVE = (
    "replaces the private loop._sendfile_native to force an error path of BaseEventLoop.sendfile"
)

LEFT_OUT = {
    "test_base_events": {
        "BaseEventLoopTests": {
            "test_not_implemented": PRIV,
            "test__add_callback_handle": PRIV,
            "test__add_callback_cancelled_handle": PRIV,
            "test__run_once": PRIV,
            "test__run_once_schedule_handle": PRIV,
            "test__run_once_cancelled_event_cleanup": PRIV,
            "test_call_soon": PRIV + " (loop._ready)",
            "test_call_later": PRIV + " (loop._scheduled)",
            "test_set_default_executor": PRIV + " (loop._default_executor)",
            "test_set_default_executor_error": PRIV + " (loop._default_executor)",
            "test_default_exc_handler_broken": MOCKLOOP,
            "test_create_task": "defines its own BaseEventLoop subclass",
            "test_env_var_debug": "looks at the stock loop of a child interpreter",
            "test_single_selecter_event_callback_after_stopping": PRIV,
            "test_run_forever_pre_stopped": PRIV + " (selector.select calls)",
            "test_custom_run_forever_integration": PRIV,
        },
        "BaseEventLoopWithSelectorTests": {
            "test_getnameinfo": "mocks socket.getnameinfo to return 42: "
            "assumes that implementation",
            "test_create_connection_multiple_errors": MOCKSOCK,
            "test_create_connection_timeout": MOCKSOCK,
            "test_create_connection_multiple_errors_local_addr": MOCKSOCK,
            "test_create_connection_happy_eyeballs": MOCKSOCK,
            "test_create_connection_happy_eyeballs_ipv4_only": MOCKSOCK,
            "test_create_connection_happy_eyeballs_empty_exceptions": MOCKCONN,
            "test_create_connection_ipv6_scope": MOCKSOCK,
            "test_create_connection_ip_addr": MOCKSOCK,
            "test_create_connection_no_inet_pton": MOCKSOCK,
            "test_create_connection_service_name": MOCKSOCK,
            "test_create_connection_bluetooth": MOCKSOCK,
            "test_create_connection_connect_err": MOCKCONN,
            "test_create_connection_connect_non_os_err_close_err": MOCKSOCK,
            "test_create_connection_multiple": MOCKCONN,
            "test_create_connection_ssl_server_hostname_default": PRIV
            + " (loop._make_ssl_transport)",
            "test_create_server_nosoreuseport": MOCKSOCK,
            "test_create_server_soreuseport_only_defined": MOCKSOCK,
            "test_create_server_cant_bind": MOCKSOCK,
            "test_create_datagram_endpoint_no_addrinfo": MOCKSOCK,
            "test_create_datagram_endpoint_connect_err": MOCKCONN2,
            "test_create_datagram_endpoint_socket_err": MOCKSOCK,
            "test_create_datagram_endpoint_setblk_err": MOCKSOCK,
            "test_create_datagram_endpoint_cant_bind": MOCKSOCK,
            "test_create_datagram_endpoint_nosoreuseport": MOCKSOCK,
            "test_create_datagram_endpoint_ip_addr": MOCKSOCK,
            "test_create_datagram_endpoint_sock_unix": TRPRIV + " (transport._sock)",
            "test_accept_connection_retry": PRIV,
            "test_accept_connection_exception": PRIV,
            "test_accept_connection_skip_connectionabortederror": PRIV,
        },
        "BaseLoopSockSendfileTests": {
            "test__sock_sendfile_native_failure": PRIV,
            "test_sock_sendfile_no_fallback": NOSENDFILE,
        },
    },
    "test_events": {
        "EventLoopTests": {
            "test_create_server_multiple_hosts_ipv4": MOCKSOCK,
            "test_create_server_multiple_hosts_ipv6": MOCKSOCK,
            "test_internal_fds": PRIV + " (loop._internal_fds)",
            "test_timeout_rounding": PRIV + " (loop._run_once)",
            "test_unclosed_pipe_transport": TRPRIV + " (sets transport._pipe = None)",
        },
        "HandleTests": {
            "test_handle": UNIT,
            "test_callback_with_exception": UNIT,
            "test_handle_weakref": UNIT,
            "test_handle_repr": UNIT,
            "test_handle_repr_debug": UNIT,
            "test_coroutine_like_object_debug_formatting": UNIT,
        },
        "AbstractEventLoopTests": {
            "test_not_implemented": UNIT,
        },
        "PolicyTests": {
            "test_event_loop_policy": UNIT,
            "test_get_event_loop": "stdlib policy only",
            "test_get_event_loop_calls_set_event_loop": "stdlib policy only",
            "test_get_event_loop_after_set_none": "stdlib policy only",
            "test_get_event_loop_thread": "stdlib policy only",
            "test_get_event_loop_policy": "stdlib policy only",
            "test_set_event_loop_policy": "stdlib policy only",
        },
        "TestAbstractServer": {
            "test_close": UNIT,
            "test_get_loop": UNIT,
        },
    },
    "test_runners": {
        "RunTests": {"test_loop_factory_default_event_loop": STOCKLOOP},
    },
    "test_sendfile": {
        "SendfileTests": {
            "test_sendfile_force_unsupported_native": _SEND_NATIVE,
            "test_sendfile_no_fallback_for_fallback_transport": TRPRIV
            + " (a mock with transport._sendfile_compatible)",
        },
    },
    "test_server": {
        "StartServerTests": {
            "test_start_server_1": SRVPRIV,
            "test_start_unix_server_1": SRVPRIV,
        },
    },
    "test_ssl": {
        "TestSSL": {
            "test_flush_before_shutdown": TRPRIV + " (transport._ssl_protocol)",
            "test_remote_shutdown_receives_trailing_data": TRPRIV
            + " (transport._test__append_write_backlog)",
        },
    },
    "test_subprocess": {
        "SubprocessTests": {
            "test_popen_error": POPEN,
            "test_popen_error_with_stdin_pipe": POPEN,
        },
        "GenericWatcherTests": {
            "test_create_subprocess_fails_with_inactive_watcher": WATCH,
        },
    },
    "test_tasks": {
        "GenericTaskTests": {
            "test_future_subclass": UNIT,
            "test_asyncio_module_compiled": UNIT,
        },
    },
    "test_unix_events": {
        "UnixSocketTests": {"test_create_unix_server_bind_error": MOCKSOCK},
        "PidfdChildWatcherTests": {
            "test_pidfd_closed_when_waitpid_raises": "replaces os.waitpid and waits until the "
            "private _PidfdChildWatcher has called it, then calls transport._process_exited()",
        },
    },
}

# Tests that name a public host or address and rely on the loop refusing the
# arguments, or honouring an overridden loop.getaddrinfo, before it gets there.
# They run only where the network is isolated to the loopback device.
NEEDS_OWN_NET = {
    "test_base_events.BaseEventLoopWithSelectorTests." + t
    for t in (
        "test_create_connection_host_port_sock",
        "test_create_connection_no_getaddrinfo",
        "test_create_connection_no_local_addr",
        "test_create_connection_no_ssl_server_hostname_errors",
        "test_create_connection_ssl_timeout_for_plain_socket",
        "test_create_server_no_getaddrinfo",
        "test_create_server_ssl_timeout_for_plain_socket",
    )
}

# --- the Task/Future half --------------------------------------------------
# (test module, new class, bases, attributes, decorate with add_subclass_tests)
# Attribute values: T/F the Task/Future under test; PyT/PyF/CT/CF the stdlib's;
# Tsub/Fsub an empty subclass of T/F.
TASK_FUTURE = [
    (
        "test_tasks",
        "Task_Future_Tests",
        ("BaseTaskTests", "SetMethodsTest"),
        {"Task": "T", "Future": "F"},
        False,
    ),
    (
        "test_tasks",
        "Task_Future_SubclassTests",
        ("BaseTaskTests",),
        {"Task": "T", "Future": "F"},
        True,
    ),
    (
        "test_tasks",
        "TaskSubclass_PyFuture_Tests",
        ("BaseTaskTests",),
        {"Task": "T", "Future": "PyF"},
        True,
    ),
    (
        "test_tasks",
        "PyTask_FutureSubclass_Tests",
        ("BaseTaskTests",),
        {"Task": "PyT", "Future": "F"},
        True,
    ),
    (
        "test_tasks",
        "Task_PyFuture_Tests",
        ("BaseTaskTests",),
        {"Task": "T", "Future": "PyF"},
        False,
    ),
    (
        "test_tasks",
        "PyTask_Future_Tests",
        ("BaseTaskTests",),
        {"Task": "PyT", "Future": "F"},
        False,
    ),
    ("test_tasks", "Task_CFuture_Tests", ("BaseTaskTests",), {"Task": "T", "Future": "CF"}, False),
    (
        "test_tasks",
        "StdCTask_Future_Tests",
        ("BaseTaskTests",),
        {"Task": "CT", "Future": "F"},
        False,
    ),
    ("test_tasks", "CurrentLoopTests", ("BaseCurrentLoopTests",), {"new_task": "T"}, False),
    ("test_futures", "FutureTests", ("BaseFutureTests",), {"cls": "F"}, False),
    ("test_futures", "SubFutureTests", ("BaseFutureTests",), {"cls": "Fsub"}, False),
    (
        "test_futures",
        "FutureDoneCallbackTests",
        ("BaseFutureDoneCallbackTests",),
        {"_new_future": "F"},
        False,
    ),
    (
        "test_futures",
        "SubFutureDoneCallbackTests",
        ("BaseFutureDoneCallbackTests",),
        {"_new_future": "Fsub"},
        False,
    ),
    (
        "test_futures",
        "FutureInheritanceTests",
        ("BaseFutureInheritanceTests",),
        {"_get_future_cls": "F"},
        False,
    ),
    ("test_futures2", "TaskTracebackTests", ("FutureTests",), {"cls": "T"}, False),
    (
        "test_eager_task_factory",
        "EagerTaskFactoryTests",
        ("EagerTaskFactoryLoopTests",),
        {"Task": "T"},
        False,
    ),
    (
        "test_eager_task_factory",
        "NonEagerTaskCountingTests",
        ("BaseNonEagerTaskFactoryTests",),
        {"Task": "T"},
        False,
    ),
    (
        "test_eager_task_factory",
        "EagerTaskCountingTests",
        ("BaseEagerTaskFactoryTests",),
        {"Task": "T"},
        False,
    ),
]

# Single tests that CPython keeps beside the C variant of a family, not in the
# mixin; grafted onto our class: (test module, from, test, onto).
GRAFT = [
    (
        "test_tasks",
        "CTask_CFuture_Tests",
        "test_del__log_destroy_pending_segfault",
        "Task_Future_Tests",
    ),
    ("test_tasks", "CTask_CFuture_Tests", "test_refleaks_in_task___init__", "Task_Future_Tests"),
    ("test_futures", "CFutureTests", "test_future_del_segfault", "FutureTests"),
    ("test_futures", "CFutureTests", "test_future_iter_get_referents_segfault", "FutureTests"),
    (
        "test_eager_task_factory",
        "CEagerTaskFactoryLoopTests",
        "test_issue122332",
        "EagerTaskFactoryTests",
    ),
]

"""Sentry with its integrations for asyncio and threads: tags of events, parents of spans."""

from contextlib import contextmanager
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.asyncio import AsyncioIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration

from ..loops import Loop
from .tracing import requests


def main(loop: Loop) -> None:
    events: list[Any] = []
    transactions: list[Any] = []

    def job(name: str) -> str:
        with sentry_sdk.start_span(op="job", name=name):
            sentry_sdk.capture_message(name)
        return name

    @contextmanager
    def scope(name: str) -> Any:
        with sentry_sdk.isolation_scope() as isolated:
            isolated.set_tag("request", name)
            with sentry_sdk.start_transaction(name=name):
                yield

    def keep(kept: list[Any]) -> Any:
        def hook(event: Any, hint: Any) -> None:
            kept.append(event)

        return hook

    async def check() -> None:
        # Start the pool before Sentry is initialized.
        await requests(scope, job)
        events.clear()
        transactions.clear()
        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1",
            integrations=[AsyncioIntegration(), ThreadingIntegration()],
            default_integrations=False,
            traces_sample_rate=1.0,
            before_send=keep(events),
            before_send_transaction=keep(transactions),
        )
        await requests(scope, job)
        check_events(events, transactions)

    loop.run(check())
    events.clear()
    transactions.clear()
    loop.run(requests(scope, job))
    check_events(events, transactions)


def check_events(events: list[Any], transactions: list[Any]) -> None:
    """Each event and transaction belongs to the request with its number."""
    assert len(events) == 60, len(events)
    for event in events:
        number = event["message"].partition(" ")[2]
        assert event["tags"]["request"] == f"request {number}", event["message"]
    assert len(transactions) == 20, len(transactions)
    for transaction in transactions:
        number = transaction["transaction"].partition(" ")[2]
        names = {span["description"] for span in transaction["spans"] if span["op"] == "job"}
        assert names == {f"{kind} {number}" for kind in ("executor", "thread", "task")}, names

"""Certificates made at test time, and contexts that use them."""

import datetime
import functools
import ssl
import warnings

import trustme

HOST = "localhost"


@functools.cache
def authority() -> trustme.CA:
    """The authority that clients and servers of the tests trust."""
    return trustme.CA()


@functools.cache
def certificate(kind: str) -> trustme.LeafCert:
    """A certificate: "good", "expired", "other host", "client" or "unknown issuer"."""
    now = datetime.datetime.now(datetime.UTC)
    if kind == "expired":
        past = now - datetime.timedelta(days=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return authority().issue_cert(
                HOST,
                not_before=past - datetime.timedelta(days=1),
                not_after=past,
            )
    if kind == "unknown issuer":
        return trustme.CA().issue_cert(HOST)
    names = {"good": HOST, "other host": "other.example", "client": "client@example.org"}
    return authority().issue_cert(names[kind])


def server_context(kind: str = "good", **options) -> ssl.SSLContext:
    """A server's context; the options are attributes of the context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate(kind).configure_cert(context)
    authority().configure_trust(context)
    return configured(context, options)


def client_context(kind: str | None = None, **options) -> ssl.SSLContext:
    """A client's context, with a client certificate if `kind` is given."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    if kind is not None:
        certificate(kind).configure_cert(context)
    return configured(context, options)


def configured(context: ssl.SSLContext, options: dict[str, object]) -> ssl.SSLContext:
    version = options.pop("version", None)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    for name, value in options.items():
        setattr(context, name, value)
    return context

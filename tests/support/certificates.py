"""Certificates made at test time, and contexts that use them."""

import datetime
import functools
import ssl
import warnings

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOST = "localhost"


@functools.cache
def authority() -> trustme.CA:
    """The authority that clients and servers of the tests trust."""
    return trustme.CA()


@functools.cache
def certificate(kind: str) -> trustme.LeafCert:
    """A certificate: "good", "expired", "other host", "client", "unknown issuer"
    or "undecodable"."""
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
    if kind == "undecodable":
        return undecodable()
    if kind == "unknown issuer":
        return trustme.CA().issue_cert(HOST)
    names = {"good": HOST, "other host": "other.example", "client": "client@example.org"}
    return authority().issue_cert(names[kind])


def undecodable() -> trustme.LeafCert:
    """A certificate that OpenSSL accepts and Python cannot decode: the type of a name is wrong."""
    good = certificate("good")
    cert = x509.load_pem_x509_certificate(good.cert_chain_pems[0].bytes())
    signed = cert.tbs_certificate_bytes
    # The last organisation is the subject's: UTF8String becomes SEQUENCE.
    at = signed.rindex(b"\x06\x03\x55\x04\x0a\x0c") + 5
    signed = signed[:at] + b"\x30" + signed[at + 1 :]
    key = serialization.load_pem_private_key(authority().private_key_pem.bytes(), None)
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"  # ecdsa-with-SHA256
    whole = der(0x30, signed + algorithm + der(0x03, b"\0" + signature))
    pem = ssl.DER_cert_to_PEM_cert(whole).encode()
    return trustme.LeafCert(good.private_key_pem.bytes(), pem, [])


def der(tag: int, content: bytes) -> bytes:
    """One element of DER."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def server_context(kind: str = "good", **options) -> ssl.SSLContext:
    """A server's context; `options` are set as its attributes."""
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

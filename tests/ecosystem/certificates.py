"""TLS for `localhost`: a throwaway CA, the server's files and both contexts."""

import contextlib
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """A certificate chain and its key in files, and contexts that trust each other."""

    authority: trustme.CA
    certificate: trustme.LeafCert
    chain: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        """A new context for each caller: clients set protocols on it."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def server(self) -> ssl.SSLContext:
        """A server's context."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.certificate.configure_cert(context)
        return context


@contextlib.contextmanager
def certificates() -> Iterator[Certificates]:
    """Fresh certificates, removed after the block."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    with tempfile.TemporaryDirectory() as directory:
        chain, key = Path(directory, "chain.pem"), Path(directory, "key.pem")
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        certificate.private_key_pem.write_to_path(key)
        yield Certificates(authority, certificate, chain, key)

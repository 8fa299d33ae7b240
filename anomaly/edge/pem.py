"""A certificate with its key, from files, for either side of a TLS connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomaly.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from pathlib import Path


def load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None = None) -> None:
    """Take a certificate and its key into a context, without ever asking for a passphrase.

    OpenSSL would ask on the terminal, and everything would wait for an answer there.

    Args:
        context: what connections are made with.
        certificate: PEM file.
        key: PEM file; None = it stands in the certificate's.

    Raises:
        UsageError: the key is encrypted.
        ssl.SSLError, OSError: the files cannot be read, or do not belong together.
    """
    file = key or certificate

    def asked() -> str:
        raise UsageError(
            f"the TLS key {file} is encrypted, and nobody can type its passphrase into a service; give it without one "
            f"(openssl pkey -in {file} -out NEW), readable by this user alone"
        )

    context.load_cert_chain(certificate, key, password=asked)

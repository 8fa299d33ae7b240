"""TLS as a client: the authority that is named, our certificate where one is asked for, the host name always checked."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from anomaly.edge.pem import load_chain
from anomaly.errors import UsageError

if TYPE_CHECKING:
    from anomaly.edge.notify.settings import Tls


def client_context(tls: Tls | None) -> ssl.SSLContext:
    """What a connection is made with; TLS 1.2 or newer.

    Raises:
        UsageError: a file cannot be read or is not PEM, or the key is encrypted; names it.
    """
    try:
        context = ssl.create_default_context(cafile=None if tls is None or tls.ca is None else str(tls.ca))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"tls.ca={tls and tls.ca} cannot be used ({error}); give a PEM file") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None and tls.certificate is not None:
        try:
            load_chain(context, tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"tls.certificate={tls.certificate} with tls.key={tls.key} cannot be used ({error}); "
                "give PEM files that belong together"
            ) from None
    return context

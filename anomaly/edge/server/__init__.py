"""The door: page, API and live streams over the runner and its store, and who may come in."""

from anomaly.edge.server.door import Controls
from anomaly.edge.server.serving import Server, serve
from anomaly.edge.server.settings import ServeSettings

__all__ = ["Controls", "ServeSettings", "Server", "serve"]

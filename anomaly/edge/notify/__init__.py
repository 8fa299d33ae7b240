"""Telling people and machines: messages from the outbox to brokers, webhooks and people's addresses."""

from anomaly.edge.notify.deliver import Delivery
from anomaly.edge.notify.message import Origin
from anomaly.edge.notify.settings import Backoff, Bounds, MqttSettings, PeopleSettings, Tls, WebhookSettings

__all__ = [
    "Backoff",
    "Bounds",
    "Delivery",
    "MqttSettings",
    "Origin",
    "PeopleSettings",
    "Tls",
    "WebhookSettings",
]

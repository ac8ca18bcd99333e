"""One adapter for each platform: how it signs and describes comments, and how it is sent a decision."""

from apps.connectors.adapters.base import Adapter, IncomingComment, OutgoingAction
from apps.connectors.adapters.coral import Coral
from apps.connectors.adapters.discourse import Discourse
from apps.connectors.adapters.mastodon import Mastodon
from apps.connectors.models import Connection

ADAPTERS: dict[str, Adapter] = {
    Connection.Platform.CORAL: Coral(),
    Connection.Platform.DISCOURSE: Discourse(),
    Connection.Platform.MASTODON: Mastodon(),
}

__all__ = ["ADAPTERS", "Adapter", "IncomingComment", "OutgoingAction"]

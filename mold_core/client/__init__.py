"""A client for servers: the methods, events and errors of `Engine`, over HTTP and without torch."""

from mold_core.client.client import Client, ServerStatus
from mold_core.client.connection import server_address
from mold_core.client.jobs import RemoteJob

__all__ = ["Client", "RemoteJob", "ServerStatus", "server_address"]

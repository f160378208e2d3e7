"""Recognise a weight file or folder by its content: kind of network, architecture, format, and whether mold runs it."""

from mold_core.recognition.files import recognise, recognise_shards
from mold_core.recognition.known import Knowledge, knowledge_of
from mold_core.recognition.recognised import Network, Recognised

__all__ = [
    "Knowledge",
    "Network",
    "Recognised",
    "knowledge_of",
    "recognise",
    "recognise_shards",
]

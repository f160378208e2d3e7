"""The gallery: result files, and a SQLite database to search them."""

from mold_core.gallery.entry import RELATIONS, Entry, Page, Parent, Relation
from mold_core.gallery.folder import Skipped
from mold_core.gallery.gallery import Changes, Gallery
from mold_core.gallery.save import file_name, save
from mold_core.gallery.thumbnails import Thumbnail

__all__ = [
    "RELATIONS",
    "Changes",
    "Entry",
    "Gallery",
    "Page",
    "Parent",
    "Relation",
    "Skipped",
    "Thumbnail",
    "file_name",
    "save",
]

"""Results on the shelf."""

from mold_core.gallery.save import file_name, save

__all__ = ["file_name", "save"]

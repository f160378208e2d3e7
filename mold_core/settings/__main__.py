"""Prints the documentation page of settings: ``python -m mold_core.settings > docs/settings.md``."""

from mold_core.settings.page import settings_page

print(settings_page(), end="")

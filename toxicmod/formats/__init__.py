"""Formats of dates and times; the setting FORMAT_MODULE_PATH names this package."""

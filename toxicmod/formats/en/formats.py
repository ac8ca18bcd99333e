"""Formats in English. Django's own format of times ends with a full stop (1:02 p.m.), also in sentences."""

DATETIME_FORMAT = "Y-m-d H:i T"  # T: the time zone
DATE_FORMAT = "Y-m-d"
TIME_FORMAT = "H:i"

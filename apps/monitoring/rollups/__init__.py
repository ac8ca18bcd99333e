"""Counting of hourly rollups: which hours to count, where predictions are read from, and what an hour holds.

`actions.roll_up` uses these modules and stores the result.
"""

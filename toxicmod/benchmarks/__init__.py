"""Benchmarks: commands that measure the system, and the implementations it is compared with.

`make bench` runs them. The production image does not contain this package.
"""

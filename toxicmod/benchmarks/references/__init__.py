"""Reference implementations for the benchmarks, each written as its users would write it.

They run in an environment of their own (`requirements.txt` here), apart from the site's libraries.
"""

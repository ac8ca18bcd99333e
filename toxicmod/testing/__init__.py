"""Tools that tests and benchmarks share: fixtures, factories, servers, a browser, an AWS, a clock.

No product code imports this package, and the production image does not contain it.
"""

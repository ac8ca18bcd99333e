"""A week in the life of a site: see `test_week`."""

"""A simulated week with every service running; `test_week` describes it."""

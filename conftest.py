"""Load the fixtures of `toxicmod.testing` for every test."""

import pytest

pytest.register_assert_rewrite("toxicmod.testing")
pytest_plugins = ["toxicmod.testing.fixtures"]

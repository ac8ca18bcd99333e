"""gunicorn's configuration for the week: the product's, except that requests are counted five times a second.

The product writes the counts every ten seconds, and moving the clock by hours would lose them.
"""

from typing import Any

from toxicmod import gunicorn as product

globals().update({name: value for name, value in vars(product).items() if not name.startswith("__")})


def post_worker_init(worker: Any) -> None:
    """Write the counts more often, then configure the worker as in the product."""
    from apps.monitoring import request_metrics

    request_metrics.WRITE_SECONDS = 0.2
    product.post_worker_init(worker)

"""The compiled stages from a comment to its probabilities: normalisation, n-grams, scoring.

Numba recompiles a cached function when its own source file changes, but not when a function that it calls
changes in another file. The cache directory is therefore named after the source of all stages.
"""

import hashlib
from pathlib import Path
from typing import Any

import numba

_FOLDER = Path(__file__).parent
_SOURCE = b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))
_config: Any = numba.config  # its settings are set by name when numba is imported
_CACHE_DIR = _config.CACHE_DIR
_config.CACHE_DIR = str(
    Path(_CACHE_DIR or _FOLDER / "__pycache__") / f"kernels-{hashlib.sha256(_SOURCE).hexdigest()[:16]}"
)
from . import ngrams, normalisation, scoring  # noqa: E402, F401

_config.CACHE_DIR = _CACHE_DIR

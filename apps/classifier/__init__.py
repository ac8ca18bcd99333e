"""Text to six calibrated probabilities: normaliser, features, fit, artifact, scorer, explanation."""

import os

# ONNX Runtime would send usage data to its vendor from a thread of its own, and a process that is forked
# after the import would abort at its end, because it lacks that thread. The variable is read on import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

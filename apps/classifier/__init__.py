"""Text to six calibrated probabilities: normaliser, features, fit, artifact, scorer, explanation."""

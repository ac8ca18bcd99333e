"""A drop-in for Google's Perspective API (commentanalyzer v1alpha1): same paths, responses and errors."""

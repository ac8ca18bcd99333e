"""The labels, in the order of the columns of every array in this package."""

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")

"""The six kinds of toxicity, in the order of every array in this package."""

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")

"""What can be fitted; the names alone, for those who fit nothing."""

RECIPES = ("base", "plain", "strong")

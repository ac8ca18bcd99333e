"""Trains and exports the encoder, the small multilingual transformer that reads what n-grams cannot."""

"""Scores of predicted assertions, the trivial answers to beat, and the decoding that makes predictions."""

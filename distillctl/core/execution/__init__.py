"""Does the assertion pass? Predictions are put back into the tests they were mined from, and run in a sandbox."""

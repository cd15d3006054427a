"""What an objective costs: the trainer's own steps, several arms on the same batches, timed against each other."""

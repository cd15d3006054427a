"""The only training loop, its gate, checkpoints and step log."""

"""What runs say when they are laid side by side: pure functions over run records. Needs no torch."""

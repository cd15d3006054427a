"""One function per verb: configuration in, what the user sees out. Commands never import each other."""

"""distillctl: distil encoder-decoder code models with an objective that can be trusted."""

__version__ = "0.1.0"

"""Records, the mined corpus, splits, and the tokenised batches made of them."""

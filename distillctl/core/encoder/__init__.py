"""The frozen code encoder: states of predicted and gold tokens, vocabulary alignment, embedding bank."""

"""What may be done to experiments and models, whoever asks."""

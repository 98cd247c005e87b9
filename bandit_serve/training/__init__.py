"""Training: the data that models are fitted on, and tried on."""

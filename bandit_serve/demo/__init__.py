"""Demo: recommenders trained on ratings, tried by a bandit on a service that really runs."""

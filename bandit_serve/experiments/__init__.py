"""Configuration of experiments, validated, and the policy that follows from it."""

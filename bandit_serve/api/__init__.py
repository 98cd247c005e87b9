"""The types of the contract."""

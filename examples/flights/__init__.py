"""A year of flights out of New York, pushed by several clients into one Syncline server."""

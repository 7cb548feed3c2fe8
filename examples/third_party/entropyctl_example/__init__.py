"""A mask and a stage that entropyctl finds through entry points."""

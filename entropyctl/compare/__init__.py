"""Two masks side by side, and two runs: what differs, and what it does to the entropy."""

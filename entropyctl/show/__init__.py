"""Tables, numbers and responses on a terminal. Data is hostile here: nothing of it is printed but through `visible`."""

"""Steps of a response: cutting it into them, and asking a judge and a process reward model which are correct."""

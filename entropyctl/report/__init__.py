"""A run as one page for a browser: a file per figure, pure functions from tables to sections, and the page around them.

sources.py finds the tables, gather.py goes through the responses once, page.py puts the sections together.
"""

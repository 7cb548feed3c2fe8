"""One file per subcommand of `entropyctl`; found by file name."""

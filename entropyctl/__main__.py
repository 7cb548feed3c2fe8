"""`python -m entropyctl` is the `entropyctl` command."""

from entropyctl.cli import main

if __name__ == "__main__":
    main()

"""`python -m ablab`."""

from ablab.cli import main

if __name__ == "__main__":
    main()

"""`python -m megaxlm`: what every launcher starts."""

from megaxlm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

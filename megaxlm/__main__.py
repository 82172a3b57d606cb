"""`python -m megaxlm`: what every launcher starts."""

from megaxlm.cli import run

if __name__ == "__main__":
    run()

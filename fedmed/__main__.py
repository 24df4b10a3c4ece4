"""`python -m fedmed`: the same as the command `fedmed`."""

from fedmed.cli import console

if __name__ == "__main__":
    console()

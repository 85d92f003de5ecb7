"""`python -m gradclip`."""

from gradclip.cli import entry

if __name__ == "__main__":
    entry()

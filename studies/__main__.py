"""`python -m hwsim.studies` is the command `hwsim`."""

from .cli import main

if __name__ == "__main__":
    main()

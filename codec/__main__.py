"""`python -m codec` is `aez`."""

from codec.cli import main

if __name__ == "__main__":
    main()

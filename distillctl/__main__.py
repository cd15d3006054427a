"""``python -m distillctl`` is the same program as the ``distillctl`` script."""

from distillctl.cli import main

if __name__ == "__main__":
    main()

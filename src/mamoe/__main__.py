"""``python -m mamoe``: the command, also where its script is not on the path, as under torchrun."""

from mamoe.cli import main

if __name__ == "__main__":
    main()

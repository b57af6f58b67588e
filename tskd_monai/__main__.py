"""`python -m tskd_monai`: the command `tskd` where its script is not on the path."""

import sys

from tskd_monai.commands.main import main

if __name__ == "__main__":
    sys.exit(main())

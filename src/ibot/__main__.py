"""`python -m ibot`."""

import sys

from ibot.cli.main import main

sys.exit(main())

"""`python -m laguna_agent`: the same program as the console script."""

import sys

if not sys.flags.safe_path:
    # Python looks for modules in the directory that it was started in first: a repository's own json.py would be run.
    del sys.path[0]

from laguna_agent.cli import main

if __name__ == "__main__":
    main()

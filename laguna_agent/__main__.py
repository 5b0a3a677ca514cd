"""`python -m laguna_agent`: the same program as the console script."""

from laguna_agent.cli import main

if __name__ == "__main__":
    main()

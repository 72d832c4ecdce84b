"""`python -m dashdeploy` and `accelerate launch -m dashdeploy`."""

from dashdeploy.cli.app import main

if __name__ == "__main__":
    main()

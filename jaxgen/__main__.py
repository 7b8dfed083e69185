"""`python -m jaxgen` is `python -m jaxgen.main`."""

from jaxgen.main import main

if __name__ == "__main__":
    main()

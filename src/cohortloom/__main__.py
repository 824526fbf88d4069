"""python -m cohortloom"""

from cohortloom.cli.main import main

if __name__ == "__main__":
    main()

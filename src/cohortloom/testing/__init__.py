"""Help for tests, ours and those of people who add generators. Needs the `dev` extra."""

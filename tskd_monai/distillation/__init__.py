"""Teacher targets for the student, and the student bundle."""

"""What shows experiments: tables and progress in a terminal, pictures, and the reports that put them together."""

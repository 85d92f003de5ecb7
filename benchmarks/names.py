"""What the limits are called in every table."""

READ, WRITE, READ_WRITE = "one read", "one read and write", "a read, then a read and write"

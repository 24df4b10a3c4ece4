"""What one site learns, what it remembers, and how a public base is made."""

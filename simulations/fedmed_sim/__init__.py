"""Many sites on one machine: the same site and coordinator code, Flower's simulation between them."""

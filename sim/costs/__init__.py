"""What operations cost: tables of rows with a source each, and prices composed from them."""

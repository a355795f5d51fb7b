"""What a distribution is here: its law, its support, its density where things are left out."""

"""Training configurations and families of them."""

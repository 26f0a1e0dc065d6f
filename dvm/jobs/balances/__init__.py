"""What customers have with us: their accounts, and paying it back to them."""

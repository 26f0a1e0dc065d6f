"""What keeps an eye on the shop: its money, its clock, its models, its daily spending, and its figures."""

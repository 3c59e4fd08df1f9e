"""The machines: connect to Ray, what they have, the files that launch them."""

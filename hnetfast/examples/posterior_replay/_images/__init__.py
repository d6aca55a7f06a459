"""What the commands that learn tasks of images are made of."""

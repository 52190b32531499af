"""Tables and pictures, made of run files alone."""

"""What a run is: its settings and methods, what it found, and the file that tells both."""

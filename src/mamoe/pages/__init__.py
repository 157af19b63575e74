"""What the HTML pages of the demo and the benchmark share."""

"""One phase of a run: set up, start the ranks, watch them, classify how they end."""

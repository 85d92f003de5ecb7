"""What a run is judged by, and the one verdict on it that every command gives."""

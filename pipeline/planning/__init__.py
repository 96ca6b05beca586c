"""What a run will cost, before it starts: rates measured here, work counted from params.yaml and the data, a simulated schedule."""

"""Anomaly detection on footage of a process: learn what is normal, alarm on what is not."""

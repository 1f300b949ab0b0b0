"""What is in an adapter: a report, spectra, a picture."""

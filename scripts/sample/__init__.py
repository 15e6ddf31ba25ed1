"""Who uses the service while the sample history is made, and what they say."""

"""The project's own requests: what is asked, how an answer is checked, and how code in it is run."""

"""What a conversation is: what messages ask for, how it stands, and what the model gets to read of it."""

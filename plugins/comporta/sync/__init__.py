"""The daily sync: who is ready, what is in the way, what was decided, and what is to be done next."""

"""Reinforcement of judges and correctors: what is drawn, what is kept of it, and what it is worth."""
